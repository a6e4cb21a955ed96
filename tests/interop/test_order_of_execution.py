"""The same jobs run in the same order and at the same times by a Node and by a Python worker."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.conftest import wait_until

from orderflow.bull.slots import SlotWorker
from orderflow.bull.worker import worker_options

COUNT = 500


def mixed_jobs(kind: str) -> list[dict[str, Any]]:
    """Return the jobs of a kind, each under its number, from a fixed shuffle."""
    chance = random.Random(7)  # not for security

    def options() -> dict[str, Any]:
        match kind:
            case "fifo":
                return {}
            case "lifo":
                return {"lifo": chance.random() < 0.5}
            case "priority":
                return {"priority": chance.choice([1, 1, 2, 10, 20, 2_097_151])}
            case "delay":
                return {"delay": 1 + chance.randrange(200)}
            case "delay and priority":
                return {"delay": 1 + chance.randrange(200), "priority": chance.choice([1, 2])}
            case _:
                return chance.choice(
                    [
                        {},
                        {"lifo": True},
                        {"priority": chance.choice([1, 10, 20])},
                        {"delay": 1 + chance.randrange(200)},
                        {"delay": 1 + chance.randrange(200), "priority": 1 + chance.randrange(3)},
                        {"delay": 1 + chance.randrange(200), "lifo": True},
                    ]
                )

    return [
        {"name": "probe", "data": {"key": str(n)}, "opts": {"attempts": 1} | options()}
        for n in range(COUNT)
    ]


KINDS = ["fifo", "lifo", "priority", "delay", "delay and priority", "all of them"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_jobs_run_in_the_same_order(node6, start_worker, keys, redis, kind):
    when = int(redis.time()[0]) * 1_000
    jobs = mixed_jobs(kind)
    for queue in ("of-node", "of-python"):
        for job in jobs:
            job["opts"]["timestamp"] = when
        node6.ask("pause", queue=queue)
        node6.ask("addBulk", queue=queue, jobs=jobs)
    # Every delay has passed before the first job runs, so that the clock decides nothing.
    wait_until(lambda: redis.time()[0] * 1_000 > when + 2_000, "the end of every delay")
    start_worker("probe", PROBE_QUEUE="of-python")
    node6.ask("startWorker", queue="of-node", opts={"concurrency": 1})
    for queue in ("of-node", "of-python"):
        node6.ask("resume", queue=queue)
        keys(queue).wait_for("completed", COUNT)
    by_node, by_python = (
        [event["jobId"] for event in keys(queue).events("active")]
        for queue in ("of-node", "of-python")
    )
    assert by_python == by_node


async def test_delays_that_end_while_we_wait_are_kept_in_their_order(node, start_worker, keys):
    chance = random.Random(7)
    delays = [100 + 20 * n for n in range(50)]
    chance.shuffle(delays)
    start_worker("probe")
    jobs = [{"name": "probe", "data": {}, "opts": {"delay": delay}} for delay in delays]
    ids = node.ask("addBulk", queue="probe", jobs=jobs)
    keys("probe").wait_for("completed", len(jobs))
    ran = [event["jobId"] for event in keys("probe").events("active")]
    assert ran == [job_id for _delay, job_id in sorted(zip(delays, ids, strict=True))]


async def test_each_delay_ends_on_time(node, start_worker, keys, alone):
    start_worker("probe")
    delays = [50, 300, 650, 1_200, 1_850, 3_100]
    with alone():
        ids = [node.add("probe", "probe", {}, {"attempts": 1, "delay": delay}) for delay in delays]
        keys("probe").wait_for("completed", len(delays))
    late = []
    for delay, job_id in zip(delays, ids, strict=True):
        job = node.job("probe", job_id)
        late.append(job["processedOn"] - job["timestamp"] - delay)
    assert all(0 <= ms <= 50 for ms in late), f"late by {late} ms"


BACKOFFS = {
    "fixed": {"type": "fixed", "delay": 150},
    "exponential": {"type": "exponential", "delay": 100},
    "a number": 120,
    "none": 0,
    "fractional": {"type": "exponential", "delay": 33.3},
}


def delays_of(queue: Any) -> list[int]:
    """Return the backoff delays as BullMQ has them: the time due less the time of failing."""
    return [int(event["delay"]) - event["at_ms"] for event in queue.events("delayed")]


@pytest.mark.parametrize("backoff", BACKOFFS.values(), ids=BACKOFFS)
async def test_a_failing_job_backs_off_as_long_as_with_node(
    node, start_worker, keys, backoff, alone
):
    options = {"attempts": 5, "backoff": backoff}
    data = {"key": "backoff", "failTimes": 5}
    start_worker("probe", PROBE_QUEUE="of-python")
    node.ask("startWorker", queue="of-node")
    with alone():
        for queue in ("of-node", "of-python"):
            node.add(queue, "probe", data, options)
            keys(queue).wait_for("failed", 1)
    by_node, by_python = delays_of(keys("of-node")), delays_of(keys("of-python"))
    assert len(by_python) == len(by_node)
    apart = [abs(a - b) for a, b in zip(by_python, by_node, strict=True)]
    assert all(ms <= 40 for ms in apart), f"Node: {by_node}, Python: {by_python}"


@pytest.mark.parametrize("kind", ["fixed", "exponential"])
async def test_jitter_spreads_the_attempts_as_with_node(node, start_worker, keys, kind):
    backoff = {"type": kind, "delay": 60_000, "jitter": 0.5}
    start_worker("probe", "--concurrency", "20", PROBE_QUEUE="of-python")
    node.ask("startWorker", queue="of-node", opts={"concurrency": 20})
    for queue in ("of-node", "of-python"):
        for _ in range(40):
            data = {"key": queue, "failTimes": 99}
            node.add(queue, "probe", data, {"attempts": 2, "backoff": backoff})
        keys(queue).wait_for("delayed", 40)
        delays = [int(keys(queue).hash(job_id)["delay"]) for job_id in keys(queue).ids("delayed")]
        assert all(30_000 <= delay <= 60_000 for delay in delays), f"{queue}: {delays}"
        assert max(delays) - min(delays) > 10_000, f"{queue}: no two attempts need come at once"


async def test_a_backoff_that_nobody_knows_fails_its_job_alone(node, start_worker, keys):
    start_worker("probe")
    options = {"attempts": 3, "backoff": {"type": "tuesdays", "delay": 100}}
    job_id = node.add("probe", "probe", {"key": "unknown", "failTimes": 3}, options)
    other = node.add("probe", "probe", {}, {"attempts": 1})
    keys("probe").wait_for("completed", 1)
    keys("probe").wait_for("failed", 1, 8)
    assert node.job("probe", other)["state"] == "completed"
    assert node.job("probe", job_id)["failedReason"]


async def test_attempts_of_zero_and_one_are_one(node, start_worker):
    start_worker("probe")
    for attempts in (0, 1):
        job_id = node.add("probe", "probe", {"failTimes": 9}, {"attempts": attempts})
        wait_until(lambda: node.job("probe", job_id)["state"] == "failed", "its end")  # noqa: B023
        assert node.job("probe", job_id)["attemptsMade"] == 1


async def test_a_strategy_of_our_own_decides_by_attempt_and_error(resources, settings, keys, alone):
    """As a coroutine, too, which the client itself does not await."""

    async def strategy(attempts_made: int, kind: str, error: Exception, job: Any) -> int:
        assert (kind, str(error), job.name) == ("by-hand", "as asked", "probe")
        return -1 if attempts_made == 3 else 40 * attempts_made

    async def fails(_job: Any, _token: str) -> None:
        raise ValueError("as asked")

    options = worker_options("probe", 1, settings) | {"settings": {"backoffStrategy": strategy}}
    worker = SlotWorker("probe", fails, options)
    running = asyncio.create_task(worker.run())
    opts = {"attempts": 9, "backoff": {"type": "by-hand"}}
    with alone():
        await resources.queues.queue("probe").add("probe", {}, opts)
        async with asyncio.timeout(10):
            while keys("probe").count("failed") == 0:
                await asyncio.sleep(0.01)
    await worker.close()
    await running
    first, second = delays_of(keys("probe"))
    assert abs(first - 40) <= 15
    assert abs(second - 80) <= 15
