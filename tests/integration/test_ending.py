"""How a job ends: what Redis keeps of it, and whether it is run again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from bullmq import UnrecoverableError

from orderflow.bull.ending import Postponed

Bench = Any
#: Longer than any test: what is put off by it does not come back.
LONG_MS = 3_600_000


def failing(error: BaseException) -> Callable[..., Any]:
    """Return a processor of which each attempt fails."""

    async def process(_job: Any, _token: str) -> None:
        raise error

    return process


def tell_ends(bench: Bench) -> list[tuple[Any, ...]]:
    """Return what a worker will have told of ends, with the attempts that its job then had."""
    ends: list[tuple[Any, ...]] = []
    on = bench.worker.on
    on("completed", lambda job, result: ends.append(("completed", job.attemptsMade, result)))
    on("failed", lambda job, _, final: ends.append(("failed", job.attemptsMade, final)))
    on("postponed", lambda job: ends.append(("postponed", job.attemptsMade)))
    return ends


async def until_in(bench: Bench, state: str, job: Any) -> dict[str, str]:
    """Wait until a job is in a state, and return what Redis has of it."""
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:{state}", job.id))
    kept: dict[str, str] = await bench.redis.hgetall(f"{bench.prefix}:{job.id}")
    return kept


async def test_an_attempt_that_failed_says_why_until_the_next_is_done(redis_server, probe):
    between: list[dict[str, str]] = []

    async def process(job: Any, _token: str) -> dict[str, int]:
        between.append(await bench.redis.hgetall(f"{bench.prefix}:{job.id}"))
        if len(between) == 1:
            raise ValueError("as it was told")
        return {"run": len(between)}

    bench = probe(redis_server.url, "why", process)
    ends = tell_ends(bench)
    told: list[Any] = []
    bench.worker.on("failed", lambda job, *_: told.append(job))
    bench.worker.on("completed", lambda job, _: told.append(job))
    job = await bench.queue.add("probe", {}, {"attempts": 3})
    kept = await until_in(bench, "completed", job)
    await bench.until_told("completed")
    assert between[1]["failedReason"] == "as it was told"
    [stack] = json.loads(between[1]["stacktrace"])
    assert "ValueError: as it was told" in stack
    assert (kept["atm"], kept["returnvalue"]) == ("2", '{"run":2}')
    assert ends == [("failed", 1, False), ("completed", 2, {"run": 2})]
    failed, completed = told
    assert (failed.failedReason, failed.stacktrace) == ("as it was told", [stack])
    assert completed.returnvalue == {"run": 2}


async def test_a_job_that_fails_waits_for_its_next_attempt(redis_server, probe):
    bench = probe(redis_server.url, "waits", failing(ValueError("as it was told")))
    ends = tell_ends(bench)
    before_ms = int(time.time() * 1000)
    backoff = {"type": "fixed", "delay": LONG_MS}
    job = await bench.queue.add("probe", {}, {"attempts": 2, "backoff": backoff})
    kept = await until_in(bench, "delayed", job)
    await bench.until_told("failed")
    due_ms = await bench.redis.zscore(f"{bench.prefix}:delayed", job.id) / 4096
    assert before_ms + LONG_MS <= due_ms <= time.time() * 1000 + LONG_MS + 1
    assert (kept["delay"], kept["failedReason"]) == (str(LONG_MS), "as it was told")
    assert ends == [("failed", 1, False)]


@pytest.mark.parametrize(
    ("lifo", "order"),
    [(False, ["first", "second", "first"]), (True, ["first", "first", "second"])],
)
async def test_the_next_attempt_comes_where_its_job_was_added(redis_server, probe, lifo, order):
    began: list[str] = []

    async def process(job: Any, _token: str) -> None:
        began.append(job.id)
        if len(began) == 1:
            raise ValueError("as it was told")

    bench = probe(redis_server.url, f"lifo-{lifo}", process, concurrency=1)
    await bench.worker.pause()
    options = {"attempts": 2, "backoff": 0}
    await bench.queue.add("probe", {}, options | {"jobId": "first", "lifo": lifo})
    last = await bench.queue.add("probe", {}, options | {"jobId": "second"})
    bench.worker.resume()
    await until_in(bench, "completed", last)
    await bench.until(lambda: bench.redis.zscore(f"{bench.prefix}:completed", "first"))
    assert began == order


async def test_the_last_attempt_is_told_as_the_last(redis_server, probe):
    bench = probe(redis_server.url, "last", failing(ValueError("as it was told")))
    ends = tell_ends(bench)
    job = await bench.queue.add("probe", {}, {"attempts": 2, "backoff": 0})
    assert (await until_in(bench, "failed", job))["atm"] == "2"
    await bench.until(lambda: asyncio.sleep(0, len(ends) == 2))
    assert ends == [("failed", 1, False), ("failed", 2, True)]


async def test_one_that_gave_up_has_no_next_attempt(redis_server, probe):
    bench = probe(redis_server.url, "gave-up", failing(UnrecoverableError("for good")))
    job = await bench.queue.add("probe", {}, {"attempts": 3})
    kept = await until_in(bench, "failed", job)
    assert (kept["failedReason"], kept["atm"]) == ("for good", "1")


async def test_one_that_cancels_itself_fails_alone(redis_server, probe):
    bench = probe(redis_server.url, "cancels", failing(asyncio.CancelledError()), concurrency=1)
    for _ in range(2):
        job = await bench.queue.add("probe", {}, {"attempts": 2})
        kept = await until_in(bench, "failed", job)
        assert (kept["failedReason"], kept["atm"]) == ("CancelledError", "2")


async def test_a_strategy_says_when_there_is_a_next_attempt_and_when_not(redis_server, probe):
    strategy = {"backoffStrategy": lambda made, *_: 0 if made == 1 else -1}
    bench = probe(redis_server.url, "no-next", failing(ValueError("x")), settings=strategy)
    ends = tell_ends(bench)
    job = await bench.queue.add("probe", {}, {"attempts": 3, "backoff": {"type": "ours"}})
    await until_in(bench, "failed", job)
    await bench.until(lambda: asyncio.sleep(0, len(ends) == 2))
    assert ends == [("failed", 1, False), ("failed", 2, True)]


async def test_the_job_that_comes_with_a_failed_ones_end_is_run(redis_server, probe):
    bench = probe(redis_server.url, "comes-with", failing(ValueError("x")), concurrency=1)
    await bench.worker.pause()
    jobs = [await bench.queue.add("probe", {}, {"attempts": 1}) for _ in range(2)]
    bench.worker.resume()
    for job in jobs:
        await until_in(bench, "failed", job)


async def test_a_job_whose_options_cannot_be_kept_to_fails_and_is_kept(redis_server, probe):
    bench = probe(redis_server.url, "no-such", failing(ValueError("as it was told")))
    ends = tell_ends(bench)
    options = {"attempts": 3, "backoff": {"type": "no such"}, "removeOnFail": True}
    job = await bench.queue.add("probe", {}, options)
    kept = await until_in(bench, "failed", job)
    await bench.until_told("failed")
    assert kept["failedReason"] == "as it was told"
    assert ("error", "Unknown backoff strategy no such") in bench.told
    assert ends == [("failed", 1, True)]


@pytest.mark.parametrize(("limit", "kept"), [(None, 3), (2, 2), (1, 1), (0, 0), ("few", 3)])
async def test_as_many_stacks_are_kept_as_a_job_allows(redis_server, probe, limit, kept):
    attempts: list[str] = []

    async def process(_job: Any, _token: str) -> None:
        attempts.append(f"attempt {len(attempts) + 1}")
        raise ValueError(attempts[-1])

    bench = probe(redis_server.url, f"stacks-{limit}", process)
    options = {"attempts": 3} | ({} if limit is None else {"stackTraceLimit": limit})
    job = await bench.queue.add("probe", {}, options)
    stacks = json.loads((await until_in(bench, "failed", job))["stacktrace"])
    assert [stack.split("ValueError: ")[1].strip() for stack in stacks] == attempts[3 - kept :]


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_not_to_be_kept_is_gone(redis_server, probe, fails):
    async def process(job: Any, _token: str) -> None:
        if job.data["fails"]:
            raise ValueError("as it was told")

    bench = probe(redis_server.url, f"gone-{fails}", process)
    options = {"attempts": 1, "removeOnComplete": True, "removeOnFail": True}
    job = await bench.queue.add("probe", {"fails": fails}, options)
    await bench.until_told("failed" if fails else "completed")
    assert await bench.redis.exists(f"{bench.prefix}:{job.id}") == 0


@pytest.mark.parametrize("error", [ValueError("as it was told"), Postponed(0.001)])
async def test_an_end_that_is_another_workers_to_tell_is_not_told(redis_server, probe, error):
    async def process(job: Any, _token: str) -> None:
        if job.name == "taken":
            lock = f"{bench.prefix}:{job.id}:lock"
            await bench.redis.set(lock, "another's token", px=LONG_MS)
            raise error

    bench = probe(redis_server.url, f"taken-{type(error).__name__}", process, concurrency=1)
    ends = tell_ends(bench)
    taken = await bench.queue.add("taken", {}, {"attempts": 1})
    await bench.until_told("error", "Lock mismatch")
    other = await bench.queue.add("other", {})
    await until_in(bench, "completed", other)
    await bench.until_told("completed")
    assert ends == [("completed", 1, None)]
    assert await bench.redis.lrange(f"{bench.prefix}:active", 0, -1) == [taken.id]
    assert await bench.redis.hget(f"{bench.prefix}:{taken.id}", "failedReason") is None


async def test_what_is_postponed_is_delayed_by_whole_milliseconds_from_now(redis_server, probe):
    bench = probe(redis_server.url, "whole", failing(Postponed(LONG_MS / 1000 + 0.0001)))
    ends = tell_ends(bench)
    before_ms = int(time.time() * 1000)
    job = await bench.queue.add("probe", {}, {"attempts": 1})
    kept = await until_in(bench, "delayed", job)
    await bench.until(lambda: asyncio.sleep(0, bool(ends)))
    assert kept["delay"] == str(LONG_MS + 1), "not before the worker takes jobs again"
    due_ms = await bench.redis.zscore(f"{bench.prefix}:delayed", job.id) / 4096
    assert before_ms + LONG_MS <= due_ms <= time.time() * 1000 + LONG_MS + 2
    assert ends == [("postponed", 0)]


async def test_a_parent_that_is_done_before_its_children_failed(redis_server, probe):
    async def process(job: Any, _token: str) -> dict[str, Any]:
        await bench.redis.sadd(f"{bench.prefix}:{job.id}:dependencies", "a child")
        return {}

    bench = probe(redis_server.url, "parent", process)
    job = await bench.queue.add("probe", {}, {"attempts": 1})
    kept = await until_in(bench, "failed", job)
    assert "has pending dependencies" in kept["failedReason"]


@pytest.mark.parametrize("broken", ["failed", "1"], ids=["list", "job"])
async def test_an_end_that_redis_will_never_take_stops_no_slot(redis_server, probe, broken):
    """Because of a list of the queue, and of the job itself."""

    async def process(job: Any, _token: str) -> None:
        if job.name == "fails":
            await bench.redis.set(f"{bench.prefix}:{broken}", "what it is not")
            raise ValueError("as it was told")

    bench = probe(redis_server.url, f"never-{broken}", process, concurrency=1)
    job = await bench.queue.add("fails", {}, {"attempts": 1})
    assert job.id == "1"
    await bench.until_told("error", "WRONGTYPE")
    other = await bench.queue.add("other", {})
    await until_in(bench, "completed", other)
    await bench.until(lambda: asyncio.sleep(0, not bench.worker.jobs))
    refused = [said for event, said in bench.told if event == "error"]
    assert len(refused) == 2, "the failure as it is, and the one of last resort"
    assert bench.worker.lockManager.get_active_job_count() == 0, "nothing renews a lock of it"
