"""The worker as a process: how it is found, started, stopped, and what it survives."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from tests.conftest import Program, process_environment, start_program, wait_until

from orderflow.settings import Settings

SLOW_WORKER = """
import asyncio

from orderflow.contract import Payload
from orderflow.processor import QueueWorker

worker = QueueWorker("slow-things", 5)


@worker.handles("wait", Payload)
async def wait(_job, _resources):
    await asyncio.sleep(1.5)
    return {"waited": True}


@worker.handles("quick", Payload)
async def quick(_job, _resources):
    return {}


@worker.handles("hang", Payload)
async def hang(_job, _resources):
    await asyncio.sleep(3600)
    return {}


@worker.handles("cancel", Payload)
async def cancel(_job, _resources):
    raise asyncio.CancelledError


@worker.handles("mute", Payload)
async def mute(_job, _resources):
    raise ValueError
"""


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        **process_environment(settings),
        "RECONCILE_INTERVAL_MS": "500",
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a worker of its own."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "slow.py").write_text(SLOW_WORKER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[Program]]:
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    client = Redis.from_url(settings.redis_dsn, decode_responses=True)
    yield client
    client.close()


def start(
    programs: list[Program], folder: Path, environment: dict[str, str], *args: str
) -> Program:
    program = start_program(
        folder / f"worker-{len(programs)}.log", "orderflow.worker", *args, environment=environment
    )
    programs.append(program)
    return program


async def add(settings: Settings, name: str, **opts: object) -> str:
    from orderflow.bull.queues import open_queues

    async with open_queues(settings) as queues:
        job = await queues.queue("slow-things").add(name, {}, opts)
        return str(job.id)


def lines(program: Program) -> list[dict[str, object]]:
    return [json.loads(line) for line in program.log.read_text().splitlines() if line[:1] == "{"]


def count(redis: Redis, settings: Settings, state: str) -> int:
    key = f"{settings.queue_prefix}:slow-things:{state}"
    return redis.llen(key) if state == "active" else redis.zcard(key)


async def test_a_file_in_workers_is_a_worker(started, folder, environment, settings, redis):
    start(started, folder, environment, "slow")
    job_id = await add(settings, "wait")
    wait_until(lambda: count(redis, settings, "completed") == 1, "the job's end")
    kept = redis.hgetall(f"{settings.queue_prefix}:slow-things:{job_id}")
    assert json.loads(kept["returnvalue"]) == {"waited": True}


def test_a_wrong_name_lists_those_that_exist(started, folder, environment):
    program = start(started, folder, environment, "paymnet")
    assert program.process.wait(30) == 2
    assert program.log.read_text() == (
        "There is no worker 'paymnet'; these exist: notification, order, payment, slow.\n"
    )


def test_a_file_without_a_worker_is_told(started, folder, environment):
    (folder / "workers" / "empty.py").write_text("")
    program = start(started, folder, environment, "empty")
    assert program.process.wait(30) == 2
    assert "empty.py is not usable: it has no `worker = QueueWorker(…)`" in program.log.read_text()


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("REDIS_PORT", "seven", "REDIS_PORT: Input should be a valid integer"),
        ("WORKER_LOCK_MS", "0", "WORKER_LOCK_MS: Input should be greater than or equal to 1"),
        ("DATABASE_URL", "mysql://root:hunter2@x/y", "DATABASE_URL: "),
    ],
)
def test_a_wrong_setting_stops_the_start_by_name(
    started, folder, environment, variable, value, fault
):
    program = start(started, folder, environment | {variable: value}, "payment")
    assert program.process.wait(30) == 2
    said = program.log.read_text()
    assert fault in said
    assert "Traceback" not in said
    assert "hunter2" not in said


async def test_sigterm_finishes_what_runs_and_takes_nothing_more(
    started, folder, environment, settings, redis
):
    worker = start(started, folder, environment, "slow", "--concurrency", "2")
    for _ in range(4):
        await add(settings, "wait")
    wait_until(lambda: count(redis, settings, "active") == 2, "two jobs at once")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    assert count(redis, settings, "completed") == 2
    assert redis.llen(f"{settings.queue_prefix}:slow-things:wait") == 2
    assert count(redis, settings, "active") == 0
    assert lines(worker)[-1]["event"] == "worker stopped"


async def test_jobs_that_outlast_the_drain_are_left_and_delivered_again(
    started, folder, environment, settings, redis
):
    impatient = environment | {"DRAIN_TIMEOUT_MS": "300"}
    worker = start(started, folder, impatient, "slow")
    job_id = await add(settings, "hang", attempts=3)
    wait_until(lambda: count(redis, settings, "active") == 1, "the job's start")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    assert count(redis, settings, "active") == 1, "left as it was: not failed, not completed"

    start(started, folder, environment, "slow")
    key = f"{settings.queue_prefix}:slow-things:{job_id}"
    wait_until(lambda: redis.hget(key, "stc") == "1", "the redelivery as stalled")
    wait_until(lambda: redis.hget(key, "ats") == "2", "the second start")
    assert redis.hget(key, "atm") is None, "a drain is no failed attempt"


async def test_a_second_signal_ends_at_once(started, folder, environment, settings, redis):
    worker = start(started, folder, environment, "slow")
    await add(settings, "hang")
    wait_until(lambda: count(redis, settings, "active") == 1, "the job's start")
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in worker.log.read_text(), "the first signal")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(5) == 128 + signal.SIGTERM


async def test_a_handler_that_cancels_itself_fails_alone(
    started, folder, environment, settings, redis
):
    start(started, folder, environment, "slow")
    job_id = await add(settings, "cancel", attempts=1)
    wait_until(lambda: count(redis, settings, "failed") == 1, "the failure")
    key = f"{settings.queue_prefix}:slow-things:{job_id}"
    assert redis.hget(key, "failedReason") == "the handler was cancelled from within"
    await add(settings, "wait")
    wait_until(lambda: count(redis, settings, "completed") == 1, "the next job")


async def test_an_error_without_words_leaves_a_reason(
    started, folder, environment, settings, redis
):
    start(started, folder, environment, "slow")
    job_id = await add(settings, "mute", attempts=1)
    wait_until(lambda: count(redis, settings, "failed") == 1, "the failure")
    key = f"{settings.queue_prefix}:slow-things:{job_id}"
    assert redis.hget(key, "failedReason") == "ValueError"


def test_the_order_worker_puts_its_schedules_back(started, folder, environment, settings, redis):
    schedules = f"{settings.queue_prefix}:order-processing:repeat"
    worker = start(started, folder, environment, "order")
    wait_until(lambda: redis.zcard(schedules) == 2, "the schedules")
    wait_until(lambda: "reconciled" in worker.log.read_text(), "a run")
    for key in redis.scan_iter(match=f"{settings.queue_prefix}:*"):
        redis.delete(key)
    wait_until(lambda: redis.zcard(schedules) == 2, "the schedules again")
    runs = worker.log.read_text().count("reconciled")
    wait_until(lambda: worker.log.read_text().count("reconciled") > runs, "the next run")


def test_the_options_are_told_by_help(folder):
    program = start_program(folder / "help.log", "orderflow.worker", "--help")
    assert program.process.wait(30) == 0
    for option in ("--concurrency", "--queue-prefix", "--log-format"):
        assert option in program.log.read_text()


async def test_a_rate_limit_holds_over_all_workers(started, folder, environment, settings, redis):
    limited = environment | {"RATE_LIMITS": '{"slow-things": {"max": 2, "duration": 1000}}'}
    start(started, folder, limited, "slow", "--concurrency", "20")
    start(started, folder, limited, "slow", "--concurrency", "20")
    for _ in range(8):
        await add(settings, "quick")
    wait_until(lambda: count(redis, settings, "completed") == 8, "all jobs")
    prefix = f"{settings.queue_prefix}:slow-things"
    starts = sorted(int(redis.hget(f"{prefix}:{number}", "processedOn")) for number in range(1, 9))
    # The window begins with its first job: the third to start is in the next one, and so on.
    for first, third in zip(starts, starts[2:], strict=False):
        assert third - first >= 900, starts


async def test_a_job_says_which_worker_ran_it(started, folder, environment, settings, redis):
    worker = start(started, folder, environment, "slow")
    job_id = await add(settings, "quick")
    wait_until(lambda: count(redis, settings, "completed") == 1, "the job's end")
    processed_by = redis.hget(f"{settings.queue_prefix}:slow-things:{job_id}", "pb")
    assert processed_by == f"{socket.gethostname()}-{worker.process.pid}"


async def test_priorities_that_the_settings_lack_are_warned_of(
    started, folder, environment, settings
):
    for priority in (1, 7, 20, 99):
        await add(settings, "hang", priority=priority)
    worker = start(started, folder, environment, "slow")
    wait_until(lambda: "worker started" in worker.log.read_text(), "the start")
    [warning] = [line for line in lines(worker) if "jobs wait with prior" in line["event"]]
    assert warning["priorities"] == [7, 99]

    agreed = environment | {"PRIORITY_MEDIUM": "7", "PRIORITY_LOW": "20", "PRIORITY_HIGH": "1"}
    other = start(started, folder, agreed | {"QUEUE_PREFIX": "nothing-waits"}, "slow")
    wait_until(lambda: "worker started" in other.log.read_text(), "the start")
    assert "jobs wait with prior" not in other.log.read_text()
