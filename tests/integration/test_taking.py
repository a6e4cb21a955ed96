"""What a worker takes, and when; and what it does with a job that nobody could run."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.integration.conftest import PATIENCE_S

from orderflow.bull.connection import BLOCK_S
from orderflow.bull.producer import node_client_name


async def does(_job: Any, _token: str) -> dict[str, Any]:
    return {}


async def add_broken(bench: Any, fields: dict[str, str]) -> str:
    """Add a job that is broken before a worker can take it."""
    await bench.queue.pause()
    job = await bench.queue.add("probe", {"kept": True}, {"attempts": 3, "removeOnFail": True})
    await bench.redis.hset(f"{bench.prefix}:{job.id}", mapping=fields)
    await bench.queue.resume()
    return str(job.id)


async def until_one_waits(bench: Any, prefix: str) -> None:
    """Return when a slot waits in Redis until there is a job."""
    ours = node_client_name(prefix, "probe")

    async def one_waits() -> bool:
        clients = await bench.redis.client_list()
        return any(c["name"] == ours and c["cmd"] == "bzpopmin" for c in clients)

    await bench.until(one_waits)


def slots() -> list[asyncio.Task[Any]]:
    """Return what works on this loop."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("slot ")]


async def test_a_worker_cannot_be_run_twice(redis_server, probe):
    bench = probe(redis_server.url, "twice", does)
    await bench.queue.add("probe", {})
    await bench.until_told("completed")
    with pytest.raises(RuntimeError, match="Worker is already running"):
        await bench.worker.run()


async def test_a_worker_tells_of_its_jobs_and_of_itself_as_bullmq_does(redis_server, probe):
    before = asyncio.all_tasks()
    bench = probe(redis_server.url, "tells", does)
    told: list[tuple[Any, ...]] = []
    bench.worker.on("active", lambda job, before: told.append(("active", job.name, before)))
    bench.worker.on("completed", lambda job, result: told.append(("completed", job.name, result)))
    for event in ("paused", "resumed", "closed"):
        bench.worker.on(event, lambda e=event: told.append((e,)))
    await bench.queue.add("one", {})
    await bench.until_told("completed")
    await bench.worker.pause()
    bench.worker.resume()
    await bench.worker.close()
    jobs = [("active", "one", "waiting"), ("completed", "one", {})]
    assert told == [*jobs, ("paused",), ("resumed",), ("closed",)]
    await asyncio.wait_for(bench.loop, PATIENCE_S)
    assert (bench.worker.running, bench.worker.closed) == (False, True)
    assert asyncio.all_tasks() == before, "nothing of it goes on"


async def test_a_loop_that_is_cancelled_leaves_no_slot_running(redis_server, probe):
    running = asyncio.Event()
    left = asyncio.Event()

    async def process(_job: Any, _token: str) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    # One has the job, one waits in Redis, and one for its turn.
    bench = probe(redis_server.url, "cancelled", process, concurrency=3)
    job = await bench.queue.add("probe", {})
    await asyncio.wait_for(running.wait(), PATIENCE_S)
    await until_one_waits(bench, "cancelled")
    bench.loop.cancel()
    await asyncio.wait_for(left.wait(), PATIENCE_S)
    await asyncio.wait_for(asyncio.gather(*slots(), return_exceptions=True), PATIENCE_S)
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == [job.id]


async def test_a_loop_that_is_cancelled_leaves_no_slot_resting(redis_server, probe):
    bench = probe(redis_server.url, "cancelled-at-rest", does, concurrency=2)
    await bench.worker.pause()
    bench.worker.rest(3600)
    bench.worker.resume()
    await bench.until(lambda: asyncio.sleep(0, bench.worker.waiting))
    both = slots()
    assert len(both) == 2
    bench.loop.cancel()
    await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), PATIENCE_S)


async def test_jobs_that_run_side_by_side_have_tokens_of_their_own(redis_server, probe):
    tokens: list[str] = []
    all_run = asyncio.Event()

    async def process(_job: Any, token: str) -> None:
        tokens.append(token)
        if len(tokens) == 3:
            all_run.set()
        await all_run.wait()

    bench = probe(redis_server.url, "tokens", process, concurrency=3)
    for _ in range(3):
        await bench.queue.add("probe", {})
    await asyncio.wait_for(all_run.wait(), PATIENCE_S)
    assert len(set(tokens)) == 3


async def test_no_wait_is_so_long_that_silence_could_be_a_dead_line(redis_server, probe):
    bench = probe(redis_server.url, "no-longer", does)
    assert 0 < bench.worker.getBlockTimeout(0) <= BLOCK_S


async def test_the_lock_of_a_job_is_renewed_while_it_runs(redis_server, probe):
    may_end = asyncio.Event()

    async def process(_job: Any, _token: str) -> None:
        await may_end.wait()

    bench = probe(redis_server.url, "renewed", process, lockDuration=2000, lockRenewTime=100)
    job = await bench.queue.add("probe", {})
    lock = f"{bench.prefix}:{job.id}:lock"
    await bench.until(lambda: bench.redis.exists(lock))
    ends_in_ms = [2000]

    async def is_renewed() -> bool:
        ends_in_ms.append(await bench.redis.pttl(lock))
        return ends_in_ms[-1] > ends_in_ms[-2]

    await bench.until(is_renewed)
    may_end.set()


@pytest.mark.parametrize("name", ["host-1", None])
async def test_its_waiting_connection_has_the_name_that_node_looks_for(redis_server, probe, name):
    prefix = f"named-{name}"
    bench = probe(redis_server.url, prefix, does, **({"name": name} if name else {}))
    job = await bench.queue.add("probe", {})
    await bench.until_told("completed")
    ours = node_client_name(prefix, "probe")
    names = [client["name"] for client in await bench.redis.client_list()]
    assert [n for n in names if n.startswith(ours)] == [f"{ours}:w:{name}" if name else ours]
    assert await bench.redis.hget(f"{bench.prefix}:{job.id}", "pb") == name


async def test_a_pause_of_slots_that_wait_takes_nothing_more(redis_server, probe):
    bench = probe(redis_server.url, "idle", does, concurrency=3)
    await bench.queue.add("probe", {})
    await bench.until_told("completed")
    await until_one_waits(bench, "idle")
    pausing = asyncio.create_task(bench.worker.pause())
    await asyncio.sleep(0)
    left = await bench.queue.add("probe", {})
    await asyncio.wait_for(pausing, PATIENCE_S)
    assert await bench.redis.lrange(f"{bench.prefix}:wait", 0, -1) == [left.id]


async def test_while_it_is_paused_it_has_nothing_to_do(redis_server, probe):
    bench = probe(redis_server.url, "resting", does, concurrency=3)
    await bench.queue.add("probe", {})
    await bench.until_told("completed")
    await bench.worker.pause()
    for _ in range(20):
        await asyncio.sleep(0)
        assert slots() == [], "whoever looks in vain whether it still is, burns a core"


@pytest.mark.parametrize("end", ["pause", "cancel"])
async def test_a_wait_that_loses_its_cancel_takes_nothing_more(redis_server, probe, end):
    lost = asyncio.Event()

    async def wait() -> int:
        """Lose the first cancel, as what awaits `wait_for` of Python 3.11 may."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost.is_set():
                raise
            lost.set()
        return 0

    bench = probe(redis_server.url, f"deaf-{end}", does, concurrency=2)
    bench.worker.waitForJob = wait
    await bench.until(lambda: asyncio.sleep(0, bench.worker.waiting))
    both = slots()
    assert len(both) == 2
    left = await bench.queue.add("probe", {})
    if end == "pause":
        await bench.worker.pause()
    else:
        bench.loop.cancel()
    await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), PATIENCE_S)
    assert lost.is_set()
    assert await bench.redis.lrange(f"{bench.prefix}:wait", 0, -1) == [left.id]


async def test_what_redis_refuses_is_told_and_asked_again(redis_server, probe):
    bench = probe(redis_server.url, "refuses", does)
    await bench.worker.pause()
    # Only who takes a job looks there: the look for stalled ones does not.
    await bench.redis.set(f"{bench.prefix}:wait", "no list")
    bench.worker.resume()
    await bench.until_told("error", "WRONGTYPE")
    await bench.redis.delete(f"{bench.prefix}:wait")
    await bench.queue.add("probe", {})
    await bench.until_told("completed")
    assert all("WRONGTYPE" in said for event, said in bench.told if event == "error")


async def test_no_job_is_taken_before_a_limit_allows_it(redis_server, probe):
    ran: list[float] = []

    async def process(_job: Any, _token: str) -> None:
        ran.append(time.monotonic())

    limit = {"max": 1, "duration": 300}
    bench = probe(redis_server.url, "limited", process, concurrency=2, limiter=limit)
    began = time.monotonic()
    for _ in range(3):
        await bench.queue.add("probe", {})
    await bench.until(lambda: asyncio.sleep(0, len(ran) == 3))
    # Redis counts in whole milliseconds.
    assert ran[1] - began >= 0.299
    assert ran[2] - began >= 0.598
    assert [said for event, said in bench.told if event == "error"] == []


async def test_what_is_limited_is_not_asked_for_until_it_may_be(redis_server, probe):
    bench = probe(redis_server.url, "asks", does, limiter={"max": 1, "duration": 3_600_000})
    for _ in range(2):
        await bench.queue.add("probe", {})
    await bench.until_told("completed")
    await bench.until(lambda: asyncio.sleep(0, bench.worker._is_limited()))
    assert await bench.redis.llen(f"{bench.prefix}:wait") == 1


async def test_after_a_limit_it_is_looked_and_not_waited_to_be_told(redis_server, probe):
    bench = probe(redis_server.url, "looks", does, limiter={"max": 1, "duration": 3_600_000})
    await until_one_waits(bench, "looks")
    assert bench.worker.drained
    await bench.redis.set(f"{bench.prefix}:limiter", 1, px=3_600_000)
    await bench.queue.add("probe", {})
    await bench.until(lambda: asyncio.sleep(0, bench.worker._is_limited()))
    assert not bench.worker.drained
    assert await bench.redis.exists(f"{bench.prefix}:marker") == 0, "nothing would tell of it"


async def test_a_longer_rest_is_not_ended_by_a_shorter_one(redis_server, probe):
    bench = probe(redis_server.url, "rests", does)
    await bench.worker.pause()
    bench.worker.rest(3600)
    bench.worker.rest(0)
    await bench.queue.add("probe", {})
    bench.worker.resume()
    assert bench.worker._is_limited()
    # It ends when it is told to, and not with its rest.
    await asyncio.wait_for(bench.worker.close(), PATIENCE_S)
    await asyncio.wait_for(bench.loop, PATIENCE_S)
    assert await bench.redis.llen(f"{bench.prefix}:wait") == 1


async def test_a_job_that_cannot_be_read_fails_as_it_is(redis_server, probe):
    bench = probe(redis_server.url, "unreadable", does)
    final: list[tuple[str, bool]] = []
    bench.worker.on("failed", lambda job, _error, last: final.append((job.name, last)))
    await bench.worker.pause()
    job_id = await add_broken(bench, {"data": "{broken"})
    await bench.queue.add("next", {})
    bench.worker.resume()
    await bench.until_told("failed")
    kept = await bench.redis.hgetall(f"{bench.prefix}:{job_id}")
    assert kept["failedReason"].startswith("the job cannot be read: JSONDecodeError: Expecting")
    assert (kept["data"], kept["stacktrace"], kept["atm"]) == ("{broken", "[]", "1")
    assert final == [("probe", True)]
    assert await bench.redis.zscore(f"{bench.prefix}:failed", job_id)
    await bench.until_told("completed")


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_options_that_mean_nothing_are_one_attempt_that_is_kept(redis_server, probe, state):
    ran: list[str] = []

    async def process(job: Any, _token: str) -> None:
        ran.append(job.id)
        if state == "failed":
            raise ValueError("as it was told")

    bench = probe(redis_server.url, f"meaningless-{state}", process)
    meaningless = '{"attempts": "many", "removeOnComplete": "never", "removeOnFail": "never"}'
    job_id = await add_broken(bench, {"opts": meaningless})
    await bench.until_told(state)
    assert await bench.redis.zscore(f"{bench.prefix}:{state}", job_id)
    assert (ran, [said for event, said in bench.told if event == "error"]) == ([job_id], [])


async def test_a_job_that_is_to_fail_is_not_run(redis_server, probe):
    ran: list[str] = []

    async def process(job: Any, _token: str) -> None:
        ran.append(job.id)

    bench = probe(redis_server.url, "to-fail", process)
    job_id = await add_broken(bench, {"defa": "its child failed", "opts": '{"attempts": 3}'})
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:failed", job_id))
    assert await bench.redis.hget(f"{bench.prefix}:{job_id}", "failedReason") == "its child failed"
    assert ran == []
