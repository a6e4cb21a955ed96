"""The worker's loop when Redis fails at the worst of times."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import PATIENCE_S

from orderflow.bull.ending import Postponed
from orderflow.sandbox.servers import free_port, start_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Any]:
    # Redis is killed here, and what it has said is to be there again: beside a slow disk it would
    # keep the last two seconds of its log to itself.
    on_disk = {"appendfsync": "always"}
    servers = [start_redis(tmp_path / "redis", free_port(), settings=on_disk)]

    def restart() -> None:
        servers.append(start_redis(tmp_path / "redis", servers[0].port, settings=on_disk))

    yield servers[0], restart
    servers[-1].stop()


async def test_work_done_while_redis_is_away_is_recorded_and_not_done_again(own_redis, probe):
    server, restart = own_redis
    runs: list[str] = []
    started, may_end = asyncio.Event(), asyncio.Event()

    async def process(job: Any, _token: str) -> dict[str, int]:
        runs.append(job.id)
        started.set()
        await may_end.wait()
        return {"run": len(runs)}

    bench = probe(server.url, "away", process)
    job = await bench.queue.add("probe", {}, {"attempts": 3})
    await asyncio.wait_for(started.wait(), PATIENCE_S)
    server.kill()
    may_end.set()
    await bench.until_told("error")
    restart()
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", job.id))

    assert runs == [job.id]
    kept = await bench.redis.hgetall(f"{bench.prefix}:{job.id}")
    assert (kept["returnvalue"], kept["atm"]) == ('{"run":1}', "1")
    assert "failedReason" not in kept


@pytest.mark.parametrize(
    ("refuse", "said", "relent"),
    [
        ("CONFIG SET maxmemory 1", "when used memory", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "against a read only replica", "REPLICAOF NO ONE"),
    ],
    ids=["no room", "not the master"],
)
async def test_work_done_while_redis_takes_nothing_is_recorded_and_not_done_again(
    own_redis, probe, refuse, said, relent
):
    server, _ = own_redis
    runs: list[str] = []

    async def process(job: Any, _token: str) -> dict[str, int]:
        runs.append(job.id)
        await bench.redis.execute_command(*refuse.split())
        return {"run": len(runs)}

    bench = probe(server.url, "full", process)
    job = await bench.queue.add("probe", {}, {"attempts": 3})
    await bench.until_told("error", said)
    await bench.redis.execute_command(*relent.split())
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", job.id))
    assert runs == [job.id]


async def test_a_job_whose_lock_went_to_another_is_not_overwritten(redis_server, probe):
    may_end = asyncio.Event()

    async def process(_job: Any, _token: str) -> dict[str, str]:
        await may_end.wait()
        return {"by": "the first"}

    bench = probe(redis_server.url, "lost-lock", process)
    job = await bench.queue.add("probe", {})
    lock = f"{bench.prefix}:{job.id}:lock"
    await bench.until(lambda: bench.redis.exists(lock))
    await bench.redis.set(lock, "another's token", px=60_000)
    may_end.set()
    await bench.until_told("error", "Lock mismatch")
    assert await bench.redis.hget(f"{bench.prefix}:{job.id}", "returnvalue") is None
    assert "completed" not in dict(bench.told)


async def test_a_lock_is_lost_to_another_worker_and_not_to_the_end_of_its_job(redis_server, probe):
    renewals: list[asyncio.Task[None]] = []
    lost: list[str] = []
    may_end = asyncio.Event()

    async def process(job: Any, _token: str) -> dict[str, str]:
        if job.name == "waits":
            await may_end.wait()
        else:
            # It begins when the end of this job is on its way.
            renewal = bench.worker.lockManager._extend_locks([job.id])
            renewals.append(asyncio.create_task(renewal))
        return {}

    bench = probe(redis_server.url, "ends-while-renewed", process)
    bench.worker.on("lockRenewalFailed", lost.extend)
    await bench.queue.add("ends", {})
    await bench.until_told("completed")
    await asyncio.gather(*renewals)
    assert renewals
    assert lost == []

    taken = await bench.queue.add("waits", {})
    lock = f"{bench.prefix}:{taken.id}:lock"
    await bench.until(lambda: bench.redis.exists(lock))
    await bench.redis.set(lock, "another's token", px=60_000)
    await bench.worker.lockManager._extend_locks([taken.id])
    assert lost == [taken.id]
    may_end.set()


async def test_a_job_that_comes_while_the_drain_begins_is_done(redis_server, probe):
    ran: list[str] = []
    drains: list[asyncio.Task[None]] = []

    async def process(job: Any, _token: str) -> dict[str, str]:
        if not ran:
            # It begins when the end of this job is on its way, and the next one is asked for.
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: drains.append(loop.create_task(bench.worker.close())))
        ran.append(job.id)
        return {}

    bench = probe(redis_server.url, "drain", process, concurrency=1)
    await bench.worker.pause()
    first, second, third = [(await bench.queue.add("probe", {}, {})).id for _ in range(3)]
    bench.worker.resume()
    await bench.until_told("completed", "")
    await asyncio.wait_for(asyncio.shield(drains[0]), PATIENCE_S)

    assert ran == [first, second]
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == []
    assert await bench.redis.lrange(f"{bench.prefix}:wait", 0, -1) == [third]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), "Object of type object is not JSON serializable"),
        (math.nan, "Out of range float values are not JSON compliant"),
    ],
)
async def test_a_result_that_is_no_json_is_a_failed_attempt(redis_server, probe, result, why):
    async def process(_job: Any, _token: str) -> dict[str, object]:
        return {"sum": result}

    bench = probe(redis_server.url, f"no-json-{len(why)}", process)
    job = await bench.queue.add("probe", {}, {"attempts": 1})
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:failed", job.id))
    reason = await bench.redis.hget(f"{bench.prefix}:{job.id}", "failedReason")
    assert reason.startswith(why)


async def test_a_pause_ends_when_the_jobs_do_and_a_resume_goes_on(redis_server, probe):
    may_end = asyncio.Event()

    async def process(_job: Any, _token: str) -> dict[str, object]:
        await may_end.wait()
        return {}

    bench = probe(redis_server.url, "pausing", process, concurrency=2)
    for _ in range(5):
        await bench.queue.add("probe", {})

    async def two_run() -> bool:
        return await bench.redis.llen(f"{bench.prefix}:active") == 2

    await bench.until(two_run)
    pausing = asyncio.create_task(bench.worker.pause())
    await asyncio.sleep(0)
    assert not pausing.done()
    may_end.set()
    await asyncio.wait_for(pausing, PATIENCE_S)
    assert await bench.redis.llen(f"{bench.prefix}:wait") == 3, "nothing was fetched on the way"

    bench.worker.resume()

    async def all_ended() -> bool:
        return await bench.redis.llen(f"{bench.prefix}:wait") == 0

    await bench.until(all_ended)


async def test_a_close_waits_for_the_jobs_that_run(redis_server, probe):
    running, may_end = asyncio.Event(), asyncio.Event()

    async def process(_job: Any, _token: str) -> dict[str, object]:
        running.set()
        await may_end.wait()
        return {}

    bench = probe(redis_server.url, "closing", process)
    await bench.queue.add("probe", {})
    await asyncio.wait_for(running.wait(), PATIENCE_S)
    closing = asyncio.create_task(bench.worker.close())
    bench.worker.on("closed", lambda: bench.told.append(("closed", "")))
    # Long enough for a close that does not wait: it has nothing else to ask of Redis.
    for _ in range(20):
        await bench.redis.ping()
    assert not closing.done()
    may_end.set()
    await asyncio.wait_for(closing, PATIENCE_S)
    assert [event for event, _ in bench.told] == ["completed", "closed"]


async def test_a_forced_close_leaves_the_jobs_that_run(redis_server, probe):
    running = asyncio.Event()

    async def process(_job: Any, _token: str) -> None:
        running.set()
        await asyncio.Event().wait()

    bench = probe(redis_server.url, "forced", process)
    job = await bench.queue.add("probe", {})
    await asyncio.wait_for(running.wait(), PATIENCE_S)
    await asyncio.wait_for(bench.worker.close(force=True), PATIENCE_S)
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == [job.id]
    assert bench.told == []


async def test_a_postponed_job_costs_no_attempt_and_no_other_is_taken_until_then(
    redis_server, probe
):
    rest_s = 0.4
    began: list[tuple[str, float]] = []

    async def process(job: Any, _token: str) -> dict[str, Any]:
        began.append((job.id, time.monotonic()))
        if len(began) == 1:
            raise Postponed(rest_s)
        return {}

    bench = probe(redis_server.url, "postponed", process, concurrency=1)
    await bench.worker.pause()
    for name, priority in (("first", 1), ("low", 20), ("high", 1)):
        await bench.queue.add("probe", {}, {"jobId": name, "priority": priority, "attempts": 3})
    bench.worker.resume()
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", "low"))

    # It comes back with its own priority: behind its like, and before what is less.
    assert [name for name, _ in began] == ["first", "high", "first", "low"]
    assert began[1][1] - began[0][1] >= rest_s
    kept = await bench.redis.hgetall(f"{bench.prefix}:first")
    assert (kept["atm"], kept["ats"], kept["priority"]) == ("1", "2", "1")
    assert "failedReason" not in kept


async def test_a_job_that_ends_while_the_worker_rests_brings_no_other(redis_server, probe):
    may_end = asyncio.Event()
    began: list[str] = []

    async def process(job: Any, _token: str) -> dict[str, Any]:
        began.append(job.id)
        await may_end.wait()
        return {}

    bench = probe(redis_server.url, "resting", process, concurrency=1)
    await bench.queue.add("probe", {}, {"jobId": "first"})
    await bench.queue.add("probe", {}, {"jobId": "second"})
    await bench.until(lambda: bench.redis.llen(f"{bench.prefix}:active"))
    bench.worker.rest(0.4)
    may_end.set()
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", "first"))
    assert await bench.redis.llen(f"{bench.prefix}:wait") == 1
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", "second"))
    assert began == ["first", "second"]
