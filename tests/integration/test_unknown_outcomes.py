"""Payments whose charge began and whose outcome nobody wrote down: the gateway is asked."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from redis import Redis
from structlog.testing import capture_logs
from tests.integration.reconciling import lose_all_jobs, run, run_over_rested

from orderflow.bull.states import JobState
from orderflow.contract import NewJob, PaymentJob, PaymentMethod, QueueName, payment_job
from orderflow.gateways import Approved, Charge, Declined, Outcome
from orderflow.gateways.sandbox import SandboxGateway
from orderflow.reconcile import Counts
from orderflow.resources import Resources
from orderflow.testing import perform_job


@pytest.fixture
async def job(place, resources, sql) -> NewJob:
    """The job of a payment that a worker began to charge, removed from its queue."""
    receipt = await place()
    await sql.execute("UPDATE orders SET status = 'processing'")
    await sql.execute("UPDATE payments SET status = 'processing'")
    job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
    await resources.queues.remove(job)
    return job


def keep_as_failed(redis: Redis, resources: Resources, job: NewJob) -> None:
    prefix = f"{resources.settings.queue_prefix}:{job.queue}"
    assert redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.zadd(f"{prefix}:failed", {job.job_id: 1})


async def charge(resources: Resources, job: NewJob, token: str) -> Outcome:
    payment = PaymentJob.model_validate(job.data)
    amount = payment.payment_data.amount
    return await resources.gateway.charge(
        Charge(payment.payment_id, amount, "EUR", PaymentMethod.CARD, token)
    )


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(
    ("token", "kind", "order"),
    [("tok_approve", Approved, "confirmed"), ("tok_decline", Declined, "cancelled")],
)
async def test_what_the_gateway_says_is_written(
    resources, job, redis, sql, token, kind, order, failed
):
    if failed:
        await resources.queues.add(job)
        keep_as_failed(redis, resources, job)
    assert isinstance(await charge(resources, job, token), kind)
    first = await run(resources)
    assert (first.results_taken, first.jobs_retried) == (1, 0)
    assert await sql.fetchval("SELECT status FROM orders") == order
    # Open orders and ended ones are looked at side by side, so the first run may have seen both.
    second = await run(resources)
    assert (second.results_taken, second.jobs_retried) == (0, 0)
    assert first.jobs_added + second.jobs_added == 1, "the notification"


async def test_a_payment_that_it_does_not_know_is_charged_by_its_job(resources, job, redis):
    assert await run(resources) == Counts(unsettled=1, jobs_added=1)
    keep_as_failed(redis, resources, job)
    assert await run(resources) == Counts(unsettled=1, jobs_retried=1)


async def test_a_job_that_waits_will_ask_by_itself(resources, job):
    await resources.queues.add(job)
    await charge(resources, job, "tok_approve")
    assert await run(resources) == Counts(unsettled=1)


async def test_it_is_not_asked_about_what_ended_while_the_jobs_were_looked_at(
    resources, place, sql, monkeypatch: pytest.MonkeyPatch
):
    """In a busy shop many payments end between the look at the rows and that at the jobs."""
    await place()
    looks = resources.queues.states

    async def ends_now(jobs):
        if jobs and jobs[0].queue is QueueName.PAYMENTS:
            await perform_job("payment", jobs[0].name, jobs[0].data, resources)
            await resources.queues.remove(jobs[0])
        return await looks(jobs)

    monkeypatch.setattr(resources.queues, "states", ends_now)
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        await sql.execute("UPDATE payments SET status = 'processing'")
        with capture_logs() as logs:
            counts = await run(alone)
    assert (counts.jobs_added, counts.results_taken) == (0, 0)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == []
    assert await sql.fetchval("SELECT status FROM orders") == "confirmed"


async def test_while_it_gives_no_answer_the_job_is_put_back_all_the_same(resources, job):
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        assert await run(alone) == Counts(unsettled=1, jobs_added=1)
    assert await resources.queues.states([job]) == [JobState.LIVE]


async def test_an_outage_is_told_once_a_run_and_nothing_is_called_put_right(
    resources, place, redis
):
    for _ in range(3):
        receipt = await place()
        job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
        prefix = f"{resources.settings.queue_prefix}:{job.queue}"
        redis.zrem(f"{prefix}:prioritized", job.job_id)
        redis.zadd(f"{prefix}:completed", {job.job_id: 1})
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        with capture_logs() as logs:
            assert await run(alone) == Counts(unsettled=3, put_off=3)
    events = [entry["event"] for entry in logs]
    assert events.count("gateway gave no answer") == 1
    assert "order put right" not in events


async def test_an_order_that_cannot_be_written_holds_up_no_other(resources, place, sql):
    """As a result in Redis may be one that PostgreSQL does not take."""
    first, second = [await place() for _ in range(2)]
    await sql.execute("UPDATE orders SET status = 'processing'")
    await sql.execute("UPDATE payments SET status = 'processing'")
    for receipt in (first, second):
        job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
        await resources.queues.remove(job)
        await charge(resources, job, "tok_approve")
    await sql.execute(
        f"""ALTER TABLE payments ADD CONSTRAINT not_this_one
            CHECK (id <> '{first.payment_id}' OR status <> 'completed')"""
    )
    assert await run_over_rested(resources, sql) == Counts(unsettled=2, results_taken=1)
    rows = await sql.fetch("SELECT status FROM orders ORDER BY id")
    assert [row["status"] for row in rows] == ["processing", "confirmed"]


async def test_no_gateway_is_asked_about_cash(resources, place, redis, sql):
    await place(paymentMethod="cash", paymentToken=None)
    lose_all_jobs(redis, resources)
    await sql.execute("UPDATE orders SET status = 'processing'")
    await sql.execute("UPDATE payments SET status = 'processing'")
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        assert await run(alone) == Counts(unsettled=1, jobs_added=1)
