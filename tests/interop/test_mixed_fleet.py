"""A Node and a Python worker on one queue, and each side steering the other."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tests.conftest import wait_until

from orderflow.bull.states import JobState
from orderflow.contract import payment_job

KEEP = {"attempts": 3}


def bulk(node: Any, count: int, data: dict[str, Any], queue: str = "probe", **opts: Any) -> None:
    jobs = [{"name": "probe", "data": data, "opts": KEEP | opts} for _ in range(count)]
    for start in range(0, count, 1_000):
        node.ask("addBulk", queue=queue, jobs=jobs[start : start + 1_000])


def gaps_ms(starts: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(starts)]


def make_it_wait_unprioritized(node: Any, queue: str, job_id: str) -> None:
    """Bring a job into the plain list, as a retry and a stall do."""
    node.ask("onJob", queue=queue, jobId=job_id, method="changePriority", args=[{"priority": 0}])


def most_at_once(keys: Any, queue: str) -> int:
    running = most = 0
    for event in sorted(
        (e for name in ("active", "completed") for e in keys(queue).events(name)),
        key=lambda e: (e["at_ms"], e["event"] == "active"),
    ):
        running += 1 if event["event"] == "active" else -1
        most = max(most, running)
    return most


async def test_two_thousand_jobs_are_shared_and_each_is_done_once(node, start_worker, keys):
    queue = keys("probe")
    node.ask("pause", queue="probe")
    start_worker("probe", "--concurrency", "10")
    node.ask("startWorker", queue="probe", opts={"concurrency": 10})
    bulk(node, 2_000, {"sleepMs": 2})
    node.ask("resume", queue="probe")
    queue.wait_for("completed", 2_000, 60)
    jobs = [queue.hash(job_id) for job_id in queue.ids("completed")]
    assert Counter((job["ats"], job["atm"]) for job in jobs) == {("1", "1"): 2_000}
    shares = Counter(json.loads(job["returnvalue"])["by"] for job in jobs)
    assert min(shares["node"], shares["python"]) > 100, shares
    assert len(queue.events("completed")) == 2_000


async def test_we_take_over_what_a_killed_node_left(node, another_node, start_worker, keys):
    options = {"lockDuration": 1_000, "stalledInterval": 500, "concurrency": 3}
    another_node.ask("startWorker", queue="probe", opts=options)
    bulk(node, 3, {"sleepMs": 3_600_000, "key": "hang"})
    keys("probe").wait_for("active", 3)
    for job_id in keys("probe").ids("active"):
        node.ask("onJob", queue="probe", jobId=job_id, method="updateData", args=[{}])
    another_node.bridge.kill()
    start_worker("probe", "--concurrency", "3")
    # Its locks last a second, our check comes twice a second and needs to see a job twice.
    keys("probe").wait_for("completed", 3, 5)
    for job_id in keys("probe").ids("completed"):
        job = node.job("probe", job_id)
        assert (job["returnvalue"], job["stalledCounter"]) == ({"by": "python"}, 1)


async def test_node_takes_over_what_we_left_when_killed(node, start_worker, keys):
    ours = start_worker("probe", "--concurrency", "3")
    bulk(node, 3, {"sleepMs": 3_600_000})
    keys("probe").wait_for("active", 3)
    for job_id in keys("probe").ids("active"):
        node.ask("onJob", queue="probe", jobId=job_id, method="updateData", args=[{}])
    ours.process.kill()
    ours.process.wait()
    node.ask("startWorker", queue="probe", opts={"stalledInterval": 500, "concurrency": 3})
    keys("probe").wait_for("completed", 3, 5)
    for job_id in keys("probe").ids("completed"):
        job = node.job("probe", job_id)
        assert (job["returnvalue"], job["stalledCounter"]) == ({"by": "node"}, 1)


async def test_a_pause_of_node_stops_us_and_its_resume_starts_us(node, start_worker, keys):
    start_worker("probe")
    node.add("probe", "probe", {}, KEEP)
    keys("probe").wait_for("completed", 1)
    node.ask("pause", queue="probe")
    for priority in (0, 1):
        node.add("probe", "probe", {}, KEEP | {"priority": priority})
    # Another queue's job, added after, ends: time enough for the paused ones to have started.
    start_worker("probe", PROBE_QUEUE="beside")
    node.add("beside", "probe", {"sleepMs": 200}, KEEP)
    keys("beside").wait_for("completed", 1)
    assert keys("probe").count("completed") == 1
    node.ask("resume", queue="probe")
    keys("probe").wait_for("completed", 3, 2)


async def test_our_pause_stops_node_and_our_resume_starts_it(node, resources, keys):
    queue = resources.queues.queue("probe")
    node.ask("startWorker", queue="probe")
    await queue.pause()
    assert node.ask("isPaused", queue="probe") is True
    for priority in (0, 1):
        await queue.add("probe", {}, {"priority": priority})
    node.ask("startWorker", queue="beside")
    node.add("beside", "probe", {"sleepMs": 200}, KEEP)
    keys("beside").wait_for("completed", 1)
    assert keys("probe").count("completed") == 0
    await queue.resume()
    keys("probe").wait_for("completed", 2, 7)


async def test_we_resume_eight_thousand_jobs_that_5x_paused(node5, resources, keys):
    bulk(node5, 8_000, {})
    node5.ask("pause", queue="probe")
    assert keys("probe").count("paused") == 8_000
    queue = resources.queues.queue("probe")
    added = [(await queue.add("probe", {"late": n})).id for n in range(5)]
    await queue.resume()
    assert keys("probe").count("paused") == 0
    assert keys("probe").count("wait") == 8_005
    assert set(added) <= set(keys("probe").ids("wait"))


async def test_jobs_that_5x_paused_are_counted_as_waiting_by_us(node5, resources):
    bulk(node5, 3, {})
    node5.ask("pause", queue="probe")
    counts = await resources.queues.counts("probe")
    assert counts.get("waiting", 0) + counts.get("paused", 0) == 3


async def test_a_job_that_a_second_pause_by_5x_lost_is_not_called_live(
    node5, resources, place, keys
):
    """Its pause and resume rename a list over another: what was in that one is in no list then."""
    receipt = await place()
    job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
    payments = keys(job.queue)
    make_it_wait_unprioritized(node5, job.queue, job.job_id)
    node5.ask("pause", queue=job.queue)
    # While 5.x holds the queue, any current client puts new jobs into the other list.
    await resources.queues.queue(job.queue).add("refund", {})
    node5.ask("pause", queue=job.queue)
    assert job.job_id not in payments.ids("paused") + payments.ids("wait"), "the trap is gone?"
    [state] = await resources.queues.states([job])
    assert state is not JobState.LIVE, "it is in no list, so nobody will run it"


async def test_the_reconciler_puts_back_what_a_pause_by_5x_lost(
    node5, resources, place, start_worker, gateway_server
):
    receipt = await place()
    job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
    make_it_wait_unprioritized(node5, job.queue, job.job_id)
    node5.ask("pause", queue=job.queue)
    await resources.queues.queue(job.queue).add("refund", {})
    node5.ask("pause", queue=job.queue)
    node5.ask("resume", queue=job.queue)
    start_worker("payment")
    start_worker("order", RECONCILE_INTERVAL_MS="300", RECONCILE_GRACE_MS="1")
    wait_until(lambda: gateway_server.charge(receipt.payment_id) is not None, "the charge", 10)


async def test_a_rate_limit_that_node_sets_paces_us(node6, start_worker, keys, alone):
    start_worker("probe")
    node6.ask("setGlobalRateLimit", queue="probe", max=1, duration=300)
    with alone():
        bulk(node6, 5, {})
        keys("probe").wait_for("completed", 5, 15)
    starts = [event["at_ms"] for event in keys("probe").events("active")]
    assert all(290 <= gap <= 450 for gap in gaps_ms(starts)), gaps_ms(starts)


async def test_a_rate_limit_that_we_set_paces_node(node6, resources, keys, alone):
    node6.ask("startWorker", queue="probe")
    await resources.queues.queue("probe").setGlobalRateLimit(1, 300)
    with alone():
        bulk(node6, 5, {})
        keys("probe").wait_for("completed", 5, 15)
    starts = [event["at_ms"] for event in keys("probe").events("active")]
    assert all(290 <= gap <= 450 for gap in gaps_ms(starts)), gaps_ms(starts)


async def test_a_limited_worker_of_ours_waits_and_does_not_ask_all_the_time(
    node6, start_worker, keys, redis
):
    start_worker("probe")
    node6.ask("setGlobalRateLimit", queue="probe", max=1, duration=2_000)
    bulk(node6, 2, {})
    keys("probe").wait_for("completed", 1)
    before = redis.info("stats")["total_commands_processed"]
    keys("probe").wait_for("completed", 2)
    looked = redis.info("stats")["total_commands_processed"] - before
    # This test looks a hundred times a second as well, and Lua's own commands count.
    assert looked < 1_000, f"{looked} commands in two seconds of waiting"


async def test_one_rate_limit_holds_for_the_workers_of_both_languages(
    node, start_worker, keys, alone
):
    limit = {"max": 1, "duration": 200}
    start_worker("probe", RATE_LIMITS=json.dumps({"probe": limit}))
    node.ask("startWorker", queue="probe", opts={"limiter": limit})
    with alone():
        bulk(node, 10, {})
        keys("probe").wait_for("completed", 10, 15)
    starts = [event["at_ms"] for event in keys("probe").events("active")]
    assert min(gaps_ms(starts)) >= 190, gaps_ms(starts)
    assert max(gaps_ms(starts)) <= 400, gaps_ms(starts)


async def test_we_wait_out_a_limit_that_node_puts_on_the_queue(node, start_worker, keys, alone):
    start_worker("probe")
    node.ask("setGlobalRateLimit", queue="probe", max=100, duration=1_000)
    node.add("probe", "probe", {}, KEEP)
    keys("probe").wait_for("completed", 1)
    with alone():
        node.ask("rateLimit", queue="probe", ms=1_000)
        job_id = node.add("probe", "probe", {}, KEEP)
        keys("probe").wait_for("completed", 2, 10)
    job = node.job("probe", job_id)
    assert 900 <= job["processedOn"] - job["timestamp"] <= 1_200


async def test_the_global_concurrency_that_node_sets_holds_for_both(node, start_worker, keys):
    node.ask("setGlobalConcurrency", queue="probe", concurrency=2)
    start_worker("probe", "--concurrency", "10")
    node.ask("startWorker", queue="probe", opts={"concurrency": 10})
    bulk(node, 30, {"sleepMs": 20})
    keys("probe").wait_for("completed", 30, 10)
    assert most_at_once(keys, "probe") == 2


async def test_the_global_concurrency_that_we_set_holds_for_node(node, resources, keys):
    await resources.queues.queue("probe").setGlobalConcurrency(2)
    node.ask("startWorker", queue="probe", opts={"concurrency": 10})
    bulk(node, 30, {"sleepMs": 20})
    keys("probe").wait_for("completed", 30, 10)
    assert most_at_once(keys, "probe") == 2


@pytest.mark.parametrize("delayed", [True, False])
async def test_drained_by_node_and_drained_by_us_leave_the_same(node, resources, delayed):
    left = []
    for by_node in (True, False):
        bulk(node, 3, {})
        bulk(node, 2, {}, priority=5)
        bulk(node, 2, {}, delay=60_000)
        if by_node:
            node.ask("drain", queue="probe", delayed=delayed)
        else:
            await resources.queues.queue("probe").drain(delayed)
        left.append(node.ask("counts", queue="probe"))
        node.ask("drain", queue="probe", delayed=True)
    assert left[0] == left[1]
    assert left[0]["delayed"] == (0 if delayed else 2)


async def test_we_drain_what_5x_paused(node5, resources, keys):
    bulk(node5, 3, {})
    node5.ask("pause", queue="probe")
    await resources.queues.queue("probe").drain()
    assert keys("probe").count("paused") == 0


async def test_node_retries_our_failed_jobs_and_we_run_them(node, start_worker, keys):
    start_worker("probe", "--concurrency", "5")
    for number in range(5):
        node.add("probe", "probe", {"key": f"retry-{number}", "failTimes": 1}, {"attempts": 1})
    keys("probe").wait_for("failed", 5)
    first, *_rest = keys("probe").ids("failed")
    node.ask("onJob", queue="probe", jobId=first, method="retry", args=["failed"])
    keys("probe").wait_for("completed", 1)
    node.ask("retryJobs", queue="probe", opts={"state": "failed"})
    keys("probe").wait_for("completed", 5)


async def test_we_retry_nodes_failed_jobs_and_it_runs_them(node, resources, keys):
    node.ask("startWorker", queue="probe", opts={"concurrency": 5})
    ids = [node.add("probe", "probe", {"failTimes": 1}, {"attempts": 1}) for _ in range(5)]
    keys("probe").wait_for("failed", 5)
    queue = resources.queues.queue("probe")
    job = await queue.getJob(ids[0])
    await job.retry("failed")
    keys("probe").wait_for("completed", 1)
    await queue.retryJobs({"state": "failed"})
    keys("probe").wait_for("completed", 5)


async def test_node_promotes_delayed_jobs_and_we_run_them(node, start_worker, keys):
    start_worker("probe")
    bulk(node, 3, {}, delay=3_600_000)
    keys("probe").wait_for("delayed", 3)
    first, *_rest = keys("probe").ids("delayed")
    node.ask("onJob", queue="probe", jobId=first, method="promote")
    keys("probe").wait_for("completed", 1, 2)
    node.ask("promoteJobs", queue="probe")
    keys("probe").wait_for("completed", 3, 2)


async def test_we_promote_delayed_jobs_and_node_runs_them(node, resources, keys):
    node.ask("startWorker", queue="probe")
    bulk(node, 3, {}, delay=3_600_000)
    keys("probe").wait_for("delayed", 3)
    queue = resources.queues.queue("probe")
    job = await queue.getJob(keys("probe").ids("delayed")[0])
    await job.promote()
    keys("probe").wait_for("completed", 1)
    await queue.promoteJobs()
    keys("probe").wait_for("completed", 3)


async def test_node_lists_the_workers_of_both_languages(node, start_worker):
    start_worker("probe")
    node.ask("startWorker", queue="probe", opts={"name": "of-node"})
    wait_until(lambda: len(node.ask("getWorkers", queue="probe")) == 2, "both workers", 5)


async def test_we_list_the_workers_of_both_languages(node, resources, start_worker):
    start_worker("probe")
    node.ask("startWorker", queue="probe", opts={"name": "of-node"})
    async with asyncio.timeout(5):
        while len(await resources.queues.queue("probe").get_workers()) != 2:
            await asyncio.sleep(0.01)


async def test_two_of_our_workers_are_two_and_not_their_connections(node6, start_worker, keys):
    for _ in range(2):
        start_worker("probe", "--concurrency", "5")
    wait_until(lambda: len(node6.ask("getWorkers", queue="probe")) == 2, "both workers", 5)
    # With work, each opens the connections that it needs.
    bulk(node6, 50, {"sleepMs": 20})
    keys("probe").wait_for("completed", 50)
    assert len(node6.ask("getWorkers", queue="probe")) == 2
