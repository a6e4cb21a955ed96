"""What follows after payments: refunds without an outcome, and events that nobody was told of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.integration.reconciling import complete_in_node, lose_all_jobs, run

from orderflow.bull.states import JobState
from orderflow.cancel import cancel_order
from orderflow.contract import (
    JobName,
    NewJob,
    order_event_job,
    order_refunded_job,
    refund_job,
    row_id,
)
from orderflow.reconcile import Action, Counts, Planned, Rules, make_plan
from orderflow.refund import refunds_of
from orderflow.resources import Resources
from orderflow.testing import perform_job

#: As a service in Node calls them, and as they are named in the jobs.
ORDERS = ("node-1", "node-2", "node-3")


async def planned(resources: Resources) -> list[tuple[str, Action]]:
    """Return the orders about which a run would do something, and what."""
    told: list[Planned] = []
    plan = await make_plan(
        told.append,
        db=resources.db,
        queues=resources.queues,
        gateway=resources.gateway,
        grace_ms=0,
        rules=Rules(),
    )
    assert plan.actions.total() == plan.unsettled
    return [(one.order_id, one.decision.action) for one in told]


async def kept(resources: Resources, jobs: Sequence[NewJob]) -> list[tuple[str, object]]:
    """Return the names and the data that the queues have for these jobs."""
    found = [await resources.queues.queue(job.queue).getJob(job.job_id) for job in jobs]
    return [(job.name, job.data) for job in found]


@pytest.fixture
async def refunds(resources, sql) -> list[NewJob]:
    """The refunds of orders that were cancelled when they were paid, and their customers told."""
    jobs = []
    for order in ORDERS:
        payment = {"paymentId": f"payment-of-{order}", "orderId": order}
        data = payment | {"paymentData": {"method": "card", "amount": "9.50"}}
        await perform_job("payment", "process-payment", data, resources)
        await cancel_order(order, db=resources.db, queues=resources.queues)
        [asked] = await refunds_of(row_id(order), db=resources.db)
        jobs.append(refund_job(asked.refund_id, order))
    await sql.execute("UPDATE orders SET notified_at = now(), user_id = 'user-1'")
    return jobs


async def test_each_gets_its_job_back_the_oldest_first_page_by_page(
    resources, refunds, redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orderflow.reconcile.follow_ups.PAGE_SIZE", 2)
    lose_all_jobs(redis, resources)
    assert await planned(resources) == [(order, Action.ADD) for order in ORDERS * 2]
    assert await run(resources) == Counts(follow_ups=6, jobs_added=6)
    told = [order_event_job(JobName.ORDER_CANCELLED, order, "user-1") for order in ORDERS]
    wanted = refunds + told
    assert await kept(resources, wanted) == [(job.name, job.data) for job in wanted]

    assert await planned(resources) == []
    assert await run(resources) == Counts(follow_ups=6)


async def test_money_that_was_given_back_is_told_by_a_job_of_its_own(resources, refunds, redis):
    told = []
    for job in refunds:
        await perform_job("order", job.name, job.data, resources)
        [done] = await refunds_of(row_id(job.data["orderId"]), db=resources.db)
        told.append(order_refunded_job(done.refund_id, job.data["orderId"], "user-1"))
    lose_all_jobs(redis, resources)
    assert await run(resources) == Counts(follow_ups=6, jobs_added=6)
    assert await kept(resources, told) == [(job.name, job.data) for job in told]
    assert await resources.queues.states(refunds) == [JobState.MISSING] * 3


@pytest.mark.usefixtures("refunds")
async def test_an_event_that_node_told_of_is_not_told_again(resources, redis, sql):
    job = order_event_job(JobName.ORDER_CANCELLED, ORDERS[1], "user-1")
    complete_in_node(redis, resources, job)

    assert await run(resources) == Counts(follow_ups=6, results_taken=1)

    known = await sql.fetch("SELECT order_id FROM order_events WHERE told_at IS NOT NULL")
    assert [row["order_id"] for row in known] == [row_id(ORDERS[1])]
    assert await run(resources) == Counts(follow_ups=5)


@pytest.mark.usefixtures("refunds")
async def test_what_just_happened_is_given_time(resources, redis):
    lose_all_jobs(redis, resources)
    assert await run(resources, grace_ms=60_000) == Counts()
