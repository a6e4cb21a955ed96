"""The reconciler and its bounds: the room of the queues, its time, and one run at once."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.reconciling import lose_all_jobs, payment_job_of, run

from orderflow.bull.states import JobState
from orderflow.contract import order_confirmation_job
from orderflow.db.pool import QUERIES
from orderflow.reconcile import Counts
from orderflow.resources import open_resources


async def test_jobs_are_fed_in_as_the_queue_has_room_the_oldest_first(
    settings, resources, place, redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orderflow.reconcile.look.PAGE_SIZE", 3)
    receipts = [await place() for _ in range(10)]
    lose_all_jobs(redis, resources)
    taken: list[str] = []
    deepest = 0
    async with open_resources(settings.model_copy(update={"queue_depth_limit": 4})) as shallow:
        run_now = asyncio.create_task(run(shallow))
        queue = shallow.queues.queue("payment-processing")
        async with asyncio.timeout(30):
            while len(taken) < len(receipts):
                await asyncio.sleep(0)
                waiting = redis.zrange(queue.keys["prioritized"], 0, -1)
                deepest = max(deepest, len(waiting))
                taken += waiting
                for job_id in waiting:
                    await queue.remove(job_id)
        counts = await run_now

    assert counts == Counts(unsettled=10, jobs_added=10)
    assert deepest <= 4
    assert taken == [f"payment-{receipt.payment_id}" for receipt in receipts]


async def test_the_jobs_of_a_page_wait_for_those_of_the_page_before(
    resources, place, redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orderflow.reconcile.look.PAGE_SIZE", 1)
    receipts = [await place() for _ in range(3)]
    lose_all_jobs(redis, resources)
    begun: list[str] = []
    looks, may_end = 0, asyncio.Event()
    adds, states = resources.queues.add_all, resources.queues.states

    async def add_all(jobs):
        begun.extend(job.job_id for job in jobs)
        await may_end.wait()
        await adds(jobs)

    async def look(jobs):
        nonlocal looks
        looks += bool(jobs)
        return await states(jobs)

    monkeypatch.setattr(resources.queues, "add_all", add_all)
    monkeypatch.setattr(resources.queues, "states", look)
    run_now = asyncio.create_task(run(resources))
    jobs = [payment_job_of(receipt).job_id for receipt in receipts]
    async with asyncio.timeout(30):
        while looks < 2 or not begun:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    seen = looks, list(begun)
    may_end.set()
    assert seen == (2, jobs[:1]), "the second page is looked at, and waits"
    assert await run_now == Counts(unsettled=3, jobs_added=3)
    assert begun == jobs


async def test_a_full_queue_does_not_hold_up_the_other(
    settings, resources, place, redis, sql, monkeypatch: pytest.MonkeyPatch
):
    unpaid = [await place() for _ in range(3)]
    paid = await place()
    lose_all_jobs(redis, resources)
    await sql.execute("UPDATE orders SET status = 'confirmed' WHERE id = $1", paid.order_id)
    # One order a page: the one that is paid is the last that is looked at.
    monkeypatch.setattr("orderflow.reconcile.look.PAGE_SIZE", 1)
    added = [
        *map(payment_job_of, unpaid[:2]),
        order_confirmation_job(str(paid.order_id), "user-1"),
    ]
    async with open_resources(settings.model_copy(update={"queue_depth_limit": 2})) as shallow:
        run_now = asyncio.create_task(run(shallow))
        async with asyncio.timeout(30):
            while await shallow.queues.states(added) != [JobState.LIVE] * 3:
                await asyncio.sleep(0.01)
        assert not run_now.done(), "it still waits for room for the third payment"
        await shallow.queues.remove(payment_job_of(unpaid[0]))
        assert await run_now == Counts(unsettled=4, jobs_added=4)


async def test_one_run_at_a_time(resources, place, redis, sql):
    await place()
    lose_all_jobs(redis, resources)
    async with sql.transaction():
        await sql.execute(QUERIES["lock_reconciler"])
        assert await run(resources) == Counts(another_runs=True)
    assert await run(resources) == Counts(unsettled=1, jobs_added=1)


#: What holds the lock of the reconciler.
LOCKS = """
SELECT a.state, a.backend_xmin IS NOT NULL AS has_snapshot
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()
"""


async def test_a_run_that_takes_long_keeps_no_snapshot(
    settings, resources, place, redis, sql, monkeypatch: pytest.MonkeyPatch
):
    """While a transaction has one, PostgreSQL keeps every row that was updated since."""
    await place()
    lose_all_jobs(redis, resources)
    filling = payment_job_of(await place())
    async with open_resources(settings.model_copy(update={"queue_depth_limit": 1})) as full:
        looked, looks = asyncio.Event(), full.queues.room

        async def room(queue: str) -> int:
            looked.set()
            return await looks(queue)

        monkeypatch.setattr(full.queues, "room", room)
        run_now = asyncio.create_task(run(full))
        async with asyncio.timeout(30):
            await looked.wait()
        assert await sql.fetchrow(LOCKS) == ("idle in transaction", False)
        assert not run_now.done(), "it waits for room"
        await full.queues.remove(filling)
        assert (await run_now).jobs_added == 1


async def test_a_run_does_not_wait_for_room_for_ever(
    settings, resources, place, redis, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(5):
        await place()
    lose_all_jobs(redis, resources)
    monkeypatch.setattr("orderflow.reconcile.run.WAIT_FOR_ROOM_AT_MOST_S", 0.2)
    async with open_resources(settings.model_copy(update={"queue_depth_limit": 2})) as shallow:
        assert await run(shallow) == Counts(unsettled=5, jobs_added=2)


async def test_a_run_ends_in_time_and_the_next_one_begins_with_the_oldest(
    resources, place, redis, monkeypatch: pytest.MonkeyPatch
):
    receipts = [await place() for _ in range(3)]
    lose_all_jobs(redis, resources)
    monkeypatch.setattr("orderflow.reconcile.look.PAGE_SIZE", 1)
    with monkeypatch.context() as hurry:
        hurry.setattr("orderflow.reconcile.run.RUN_AT_MOST_S", 0)
        assert await run(resources) == Counts(unsettled=1)
    assert await run(resources) == Counts(unsettled=3, jobs_added=3)
    jobs = [payment_job_of(receipt) for receipt in receipts]
    assert await resources.queues.states(jobs) == [JobState.LIVE] * 3
