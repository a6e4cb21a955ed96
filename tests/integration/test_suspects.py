"""A job that kills, blocks or outlasts its worker is stopped, and what runs beside it is not."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.conftest import Program, events, process_environment, start_program, wait_until
from tests.integration.conftest import PATIENCE_S, Probe

from orderflow.bull.queues import open_queues
from orderflow.bull.suspects import SUSPECT_FROM
from orderflow.settings import Settings

WORKER = """
import asyncio
import os
import time
from pathlib import Path

from orderflow.contract import Payload
from orderflow.processor import QueueWorker

worker = QueueWorker("probe", 11)


@worker.handles("innocent", Payload)
async def innocent(_job, _resources):
    await asyncio.sleep(0.2)
    return {}


@worker.handles("exit", Payload)
async def exit_process(_job, _resources):
    await asyncio.sleep(0.05)
    os._exit(3)


@worker.handles("spin", Payload)
async def spin(_job, _resources):
    while True:
        pass


@worker.handles("block-while-draining", Payload)
async def block_while_draining(_job, _resources):
    Path("blocks").touch()
    while not Path("go-on").exists():
        await asyncio.sleep(0.01)
    time.sleep(3)
    return {}


@worker.handles("linger", Payload)
async def linger(_job, _resources):
    await asyncio.sleep(3600)
    return {}


@worker.handles("linger-less", Payload, timeout_ms=200)
async def linger_less(_job, _resources):
    await asyncio.sleep(3600)
    return {}
"""


class Fleet:
    """Workers of a user's own folder, and what Redis says of their queue."""

    def __init__(self, folder: Path, settings: Settings, redis: Redis) -> None:
        self.programs: list[Program] = []
        self.key = f"{settings.queue_prefix}:probe"
        self._folder = folder
        self._settings = settings
        self._redis = redis

    def start(self, *args: str, **changes: str) -> Program:
        quick = {
            "WORKER_LOCK_MS": "800",
            "WORKER_STALLED_INTERVAL_MS": "200",
            "WORKER_HANG_MS": "1500",
        }
        program = start_program(
            self._folder / f"worker-{len(self.programs)}.log",
            "orderflow.worker",
            *("probe", *args),
            environment=process_environment(self._settings) | quick | changes,
        )
        self.programs.append(program)
        return program

    def start_working(self, *args: str, **changes: str) -> Program:
        program = self.start(*args, **changes)
        wait_until(lambda: "worker started" in program.log.read_text(), "the start")
        return program

    async def add(self, name: str, count: int = 1, **opts: object) -> list[str]:
        async with open_queues(self._settings) as queues:
            queue = queues.queue("probe")
            return [str((await queue.add(name, {}, opts)).id) for _ in range(count)]

    def count(self, state: str) -> int:
        return int(self._redis.zcard(f"{self.key}:{state}"))

    def job(self, job_id: str) -> dict[str, str]:
        kept: dict[str, str] = self._redis.hgetall(f"{self.key}:{job_id}")
        return kept


@pytest.fixture
def fleet(
    tmp_path: Path, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "probe.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    fleet = Fleet(tmp_path, settings, redis)
    yield fleet
    for program in fleet.programs:
        # Its processes drain by themselves once a parent is gone.
        program.process.kill()
        program.process.wait()


def deaths_in(program: Program) -> list[int]:
    """Return how the processes of a parent ended, each that was replaced."""
    return [line["status"] for line in events(program, "a process ended; it is started anew")]


def marks(job: dict[str, str]) -> list[str]:
    return [field for field in job if field.startswith("of:death:")]


async def test_a_job_that_kills_its_process_is_put_aside_and_those_beside_it_are_done(fleet):
    innocents = await fleet.add("innocent", 10, attempts=3)
    [poison] = await fleet.add("exit", attempts=3)
    workers = fleet.start("--processes", "2", WORKER_POISON_DEATHS="2")

    wait_until(lambda: fleet.count("failed") == 1, "the judgement", 60)
    wait_until(lambda: fleet.count("completed") == 10, "all innocents", 60)
    put_aside = fleet.job(poison)
    assert put_aside["failedReason"] == "it ended its worker's process 2 times"
    assert len(marks(put_aside)) == 2
    for job_id in innocents:
        job = fleet.job(job_id)
        assert (job["atm"], marks(job), job.get("failedReason")) == ("1", [], None)
    assert deaths_in(workers) == [3] * (SUSPECT_FROM + 2), "no death but of its making"


async def test_a_job_that_blocks_its_process_is_put_aside_and_told_where_it_stood(fleet):
    [poison] = await fleet.add("spin", attempts=3)
    innocents = await fleet.add("innocent", 3)
    workers = fleet.start("--processes", "2", WORKER_POISON_DEATHS="1")

    wait_until(lambda: fleet.count("failed") == 1, "the judgement", 60)
    wait_until(lambda: fleet.count("completed") == len(innocents), "all innocents", 60)
    assert fleet.job(poison)["failedReason"] == "it ended its worker's process once"
    said = workers.log.read_text()
    assert "Timeout (0:00:01.5" in said
    assert "in spin\n" in said
    # Its lock ends before its process does, so it may be judged while that still hangs.
    expected = [1] * (SUSPECT_FROM + 1)
    wait_until(lambda: deaths_in(workers) == expected, "the end of all that it blocked")


async def test_a_worker_that_drains_may_stand_still(fleet, tmp_path):
    worker = fleet.start_working()
    await fleet.add("block-while-draining")
    wait_until((tmp_path / "blocks").exists, "the job")
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: '"stopping"' in worker.log.read_text(), "the drain")
    (tmp_path / "go-on").touch()
    assert worker.process.wait(30) == 0
    assert "Timeout (" not in worker.log.read_text()


async def test_a_worker_that_was_stopped_for_long_ends_or_works_when_it_is_woken(fleet):
    worker = fleet.start_working()
    worker.process.send_signal(signal.SIGSTOP)
    await fleet.add("innocent")
    long_enough = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > long_enough, "more than WORKER_HANG_MS")
    worker.process.send_signal(signal.SIGCONT)
    # Which of its threads wakes first decides.
    wait_until(lambda: fleet.count("completed") == 1 or worker.process.poll() is not None, "either")
    assert worker.process.poll() in {None, 1}


async def test_a_handler_that_takes_too_long_is_a_failed_attempt(fleet, redis):
    fleet.start_working(JOB_TIMEOUT_MS="300")
    [job_id] = await fleet.add("linger", attempts=2)
    [limited] = await fleet.add("linger-less", attempts=1)
    wait_until(lambda: fleet.count("failed") == 2, "the last attempts")
    job = fleet.job(job_id)
    assert job["failedReason"] == "The handler of 'linger' ran longer than its limit of 300 ms."
    assert (job["atm"], job.get("stc")) == ("2", None)
    assert fleet.job(limited)["failedReason"] == (
        "The handler of 'linger-less' ran longer than its limit of 200 ms."
    )
    assert redis.llen(f"{fleet.key}:active") == 0


# The loop alone, and jobs of which Redis says that workers left them.


class Runs:
    """A processor whose jobs run until they are let go."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.may_end = asyncio.Event()

    async def __call__(self, job: Any, _token: str) -> dict[str, Any]:
        self.running.append(job.id)
        try:
            await self.may_end.wait()
        finally:
            self.running.remove(job.id)
        if job.data["fails"]:
            raise ValueError("as it was told")
        return {}

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.running) < count:
                await asyncio.sleep(0.01)
        return list(self.running)


async def add_left(bench: Probe, times: int, count: int = 1, *, fails: bool = False) -> list[str]:
    """Add jobs that workers left so many times."""
    await bench.queue.pause()
    jobs = [await bench.queue.add("probe", {"fails": fails}, {"attempts": 3}) for _ in range(count)]
    for job in jobs:
        await bench.redis.hset(f"{bench.prefix}:{job.id}", "stc", times)
    await bench.queue.resume()
    return [job.id for job in jobs]


async def marks_of(bench: Probe, job_id: str) -> list[str]:
    return marks(await bench.redis.hgetall(f"{bench.prefix}:{job_id}"))


async def until_ended(bench: Probe, state: str, count: int) -> None:
    async def enough() -> bool:
        return await bench.redis.zcard(f"{bench.prefix}:{state}") == count

    await bench.until(enough)


async def test_suspects_take_turns_and_others_go_on_beside_them(redis_server, probe):
    runs = Runs()
    bench = probe(redis_server.url, "turns", runs, concurrency=5)
    suspects = await add_left(bench, 2, 3)
    [first] = await runs.until(1)
    others = await add_left(bench, 1, 2)
    assert set(await runs.until(3)) == {first, *others}
    assert bench.worker.lockManager.get_active_job_count() == 5, "the locks of all are renewed"
    for job_id in suspects:
        assert len(await marks_of(bench, job_id)) == (1 if job_id == first else 0)

    runs.may_end.set()
    await until_ended(bench, "completed", 5)
    for job_id in suspects:
        assert await marks_of(bench, job_id) == []


async def test_a_suspect_whose_attempt_fails_is_not_counted(redis_server, probe):
    runs = Runs()
    runs.may_end.set()
    bench = probe(redis_server.url, "failing", runs)
    [job_id] = await add_left(bench, SUSPECT_FROM, fails=True)
    await until_ended(bench, "failed", 1)
    kept = await bench.redis.hgetall(f"{bench.prefix}:{job_id}")
    assert (kept["failedReason"], kept["atm"], marks(kept)) == ("as it was told", "3", [])


async def test_a_suspect_that_is_left_by_a_drain_is_not_counted(redis_server, probe):
    runs = Runs()
    bench = probe(redis_server.url, "left", runs, name="host-1")
    [job_id] = await add_left(bench, SUSPECT_FROM)
    await runs.until(1)
    [mark] = await marks_of(bench, job_id)
    assert await bench.redis.hget(f"{bench.prefix}:{job_id}", mark) == "host-1"
    await bench.worker.close(force=True)
    kept = await bench.redis.hgetall(f"{bench.prefix}:{job_id}")
    assert ("atm" in kept, marks(kept)) == (False, [])
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == [job_id]


async def test_a_suspect_whose_lock_ended_before_its_turn_is_not_run(redis_server, probe):
    runs = Runs()
    bench = probe(redis_server.url, "late", runs, concurrency=2)
    suspects = await add_left(bench, SUSPECT_FROM, 2)
    [first] = await runs.until(1)
    [second] = set(suspects) - {first}
    lock = f"{bench.prefix}:{second}:lock"
    await bench.until(lambda: bench.redis.exists(lock))
    await bench.redis.set(lock, "another's token", px=60_000)
    runs.may_end.set()
    await bench.until_told("error", "Missing lock")
    await until_ended(bench, "completed", 1)
    assert await marks_of(bench, second) == []
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == [second]


async def test_a_job_that_is_put_aside_stays_so_when_it_is_retried(redis_server, probe):
    runs = Runs()
    bench = probe(redis_server.url, "guilty", runs, poisonDeaths=1)
    await bench.queue.pause()
    job = await bench.queue.add("probe", {}, {"attempts": 3})
    left = {"stc": 3, "of:death:a-token": "host-1"}
    await bench.redis.hset(f"{bench.prefix}:{job.id}", mapping=left)
    await bench.queue.resume()
    for _ in range(2):
        await until_ended(bench, "failed", 1)
        kept = await bench.queue.getJob(job.id)
        assert kept.failedReason == "it ended its worker's process once"
        await kept.retry("failed", {"resetAttemptsMade": True, "resetAttemptsStarted": True})
    await until_ended(bench, "failed", 1)
    assert runs.running == []


async def test_a_job_that_bullmq_would_fail_for_its_stalls_is_not(redis_server, probe):
    runs = Runs()
    bench = probe(redis_server.url, "stalled", runs)
    [job_id] = await add_left(bench, 9)
    await runs.until(1)
    # As if its worker were gone: another one looks, sees no lock, and takes it.
    lock = f"{bench.prefix}:{job_id}:lock"
    other = probe(redis_server.url, "stalled", runs)

    async def is_left_again() -> bool:
        await bench.redis.delete(lock)
        return await bench.redis.hget(f"{bench.prefix}:{job_id}", "stc") == "10"

    await other.until(is_left_again)
    runs.may_end.set()
    await until_ended(bench, "completed", 1)
    assert await bench.redis.zcard(f"{bench.prefix}:failed") == 0
