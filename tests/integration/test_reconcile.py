"""The reconciler against real rows and real queues."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from structlog.testing import capture_logs
from tests.integration.reconciling import (
    complete_in_node,
    lose_all_jobs,
    payment_job_of,
    run,
    run_over_rested,
)

from orderflow.bull.states import JobState
from orderflow.bull.suspects import PUT_ASIDE
from orderflow.contract import PaymentMethod, order_confirmation_job, payment_failed_job
from orderflow.gateways import Charge
from orderflow.gateways.sandbox import SandboxGateway
from orderflow.reconcile import Counts, Rules


async def test_nothing_is_done_where_every_job_is_there(resources, place):
    receipts = [await place() for _ in range(3)]
    counts = await run(resources)
    assert counts == Counts(unsettled=3)
    assert (await resources.queues.counts("payment-processing"))["prioritized"] == len(receipts)


async def test_a_payment_that_lost_its_job_gets_one(resources, place, redis):
    receipt = await place()
    lose_all_jobs(redis, resources)

    assert await run(resources) == Counts(unsettled=1, jobs_added=1)

    job = await resources.queues.queue("payment-processing").getJob(f"payment-{receipt.payment_id}")
    assert job.name == "process-payment"
    assert job.data == {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": "card", "amount": "68.00"},
    }
    assert await run(resources) == Counts(unsettled=1)


@pytest.mark.parametrize(
    ("status", "reason", "job_of"),
    [
        ("confirmed", None, lambda order_id: order_confirmation_job(order_id, "user-1")),
        ("cancelled", "no", lambda order_id: payment_failed_job(order_id, "user-1", "no")),
        ("cancelled", None, lambda order_id: payment_failed_job(order_id, "user-1", "cancelled")),
    ],
)
async def test_an_ended_order_that_nobody_was_told_of_gets_its_notification(
    resources, place, redis, sql, status, reason, job_of
):
    receipt = await place()
    lose_all_jobs(redis, resources)
    await sql.execute("UPDATE orders SET status = $1", status)
    await sql.execute("UPDATE payments SET decline_reason = $1", reason)

    assert await run(resources) == Counts(unsettled=1, jobs_added=1)
    wanted = job_of(str(receipt.order_id))
    assert await resources.queues.states([wanted]) == [JobState.LIVE]
    job = await resources.queues.queue(wanted.queue).getJob(wanted.job_id)
    assert (job.name, job.data) == (wanted.name, wanted.data)


async def test_an_order_whose_customer_was_told_is_left_alone(resources, place, redis, sql):
    await place()
    lose_all_jobs(redis, resources)
    await sql.execute("UPDATE orders SET status = 'confirmed', notified_at = now()")
    assert await run(resources) == Counts()


async def test_a_kept_failed_job_runs_again_with_its_attempts_anew(resources, place, redis):
    receipt = await place()
    job = payment_job_of(receipt)
    prefix = f"{resources.settings.queue_prefix}:payment-processing"
    redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.zadd(f"{prefix}:failed", {job.job_id: 1})
    redis.hset(f"{prefix}:{job.job_id}", mapping={"atm": 3, "failedReason": "HTTP 503"})

    assert await run(resources) == Counts(unsettled=1, jobs_retried=1)

    again = await resources.queues.queue("payment-processing").getJob(job.job_id)
    assert (again.attemptsMade, again.failedReason) == (0, None)
    assert redis.zscore(f"{prefix}:prioritized", job.job_id) is not None


async def test_a_job_that_ended_its_workers_is_left_to_a_person(resources, place, redis):
    job = payment_job_of(await place())
    prefix = f"{resources.settings.queue_prefix}:payment-processing"
    redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.zadd(f"{prefix}:failed", {job.job_id: 1})
    redis.hset(f"{prefix}:{job.job_id}", "failedReason", f"{PUT_ASIDE} 3 times")

    assert await run(resources) == Counts(unsettled=1)
    assert redis.zscore(f"{prefix}:failed", job.job_id) is not None


async def test_an_order_that_just_moved_is_given_time(resources, place, redis):
    await place()
    lose_all_jobs(redis, resources)
    assert await run(resources, grace_ms=60_000) == Counts()


async def test_every_page_is_looked_at(resources, place, redis, monkeypatch):
    monkeypatch.setattr("orderflow.reconcile.look.PAGE_SIZE", 3)
    for _ in range(7):
        await place()
    lose_all_jobs(redis, resources)
    assert await run(resources) == Counts(unsettled=7, jobs_added=7)


async def test_expired_idempotency_keys_are_purged(resources, sql):
    await sql.execute(
        """INSERT INTO idempotency_keys (user_id, key, fingerprint, answer, expires_at)
           VALUES ('u', 'old', '', '{}', now() - interval '1 s'),
                  ('u', 'new', '', '{}', now() + interval '1 h')"""
    )
    assert (await run(resources)).keys_purged == 1
    assert await sql.fetchval("SELECT key FROM idempotency_keys") == "new"


@pytest.mark.parametrize(
    ("result", "order", "payment"),
    [
        ('{"success":true,"transactionId":"ch_1"}', "confirmed", ("completed", "ch_1", None)),
        (
            '{"success":false,"transactionId":null,"reason":"no"}',
            "cancelled",
            ("failed", None, "no"),
        ),
        ('{"success":false,"reason":null}', "cancelled", ("failed", None, "declined")),
    ],
)
async def test_a_payment_that_node_took_is_written_down_and_not_taken_again(
    resources, place, redis, sql, result, order, payment
):
    receipt = await place()
    complete_in_node(redis, resources, payment_job_of(receipt), result)

    assert await run_over_rested(resources, sql) == Counts(unsettled=1, results_taken=1)

    assert await sql.fetchval("SELECT status FROM orders") == order
    row = await sql.fetchrow("SELECT status, transaction_id, decline_reason FROM payments")
    assert tuple(row) == payment
    # And the next run sees to it that the customer is told.
    assert await run(resources) == Counts(unsettled=1, jobs_added=1)


async def test_the_word_of_the_gateway_is_better_than_that_of_a_job(
    resources, place, redis, sql, gateway_server
):
    receipt = await place()
    charged = await resources.gateway.charge(
        Charge(str(receipt.payment_id), receipt.total, "EUR", PaymentMethod.CARD, None)
    )
    complete_in_node(redis, resources, payment_job_of(receipt), '{"success":false}')
    assert await run_over_rested(resources, sql) == Counts(unsettled=1, results_taken=1)
    assert await sql.fetchval("SELECT transaction_id FROM payments") == charged.transaction_id
    assert gateway_server.charge(receipt.payment_id)["id"] == charged.transaction_id


async def test_what_only_the_gateway_can_tell_waits_for_it(resources, place, redis):
    receipt = await place()
    complete_in_node(redis, resources, payment_job_of(receipt), '{"success":false}')
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        assert await run(alone) == Counts(unsettled=1, put_off=1)


@pytest.mark.parametrize(
    "result",
    [
        *("null", "[]", '"ok"', '{"success":true}', '{"success":true,"transactionId":""}'),
        '{"success":false,"transactionId":"pi_1","reason":"requires_action"}',
    ],
)
async def test_a_result_that_says_nothing_is_asked_for_again(resources, place, redis, result):
    receipt = await place()
    complete_in_node(redis, resources, payment_job_of(receipt), result)
    assert await run(resources) == Counts(unsettled=1, jobs_retried=1)


async def test_a_customer_whom_node_told_is_not_told_again(resources, place, redis, sql):
    receipt = await place()
    await sql.execute("UPDATE orders SET status = 'confirmed'")
    job = order_confirmation_job(str(receipt.order_id), "user-1")
    await resources.queues.add(job)
    complete_in_node(redis, resources, job, '{"success":true}')

    assert await run(resources) == Counts(unsettled=1, results_taken=1)
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")
    assert await run(resources) == Counts()


async def test_what_was_put_right_is_said_with_the_reason(resources, place, redis, sql):
    names = ("waits", "lost", "failed", "told", "paid", "old")
    orders = {name: await place() for name in names}
    jobs = {name: payment_job_of(receipt) for name, receipt in orders.items()}
    payments = f"{resources.settings.queue_prefix}:payment-processing"
    for name in ("lost", "failed"):
        redis.zrem(f"{payments}:prioritized", jobs[name].job_id)
    redis.zadd(f"{payments}:failed", {jobs["failed"].job_id: 1})
    told = order_confirmation_job(str(orders["told"].order_id), "user-1")
    await resources.queues.add(told)
    complete_in_node(redis, resources, told, '{"success":true}')
    taken = '{"success":true,"transactionId":"ch_1"}'
    complete_in_node(redis, resources, jobs["paid"], taken)
    change = "UPDATE orders SET {} WHERE id = $1"
    await sql.execute(change.format("status = 'confirmed'"), orders["told"].order_id)
    old = "created_at = now() - interval '2 h'"
    await sql.execute(change.format(old), orders["old"].order_id)

    with capture_logs() as logs:
        await run(resources, rules=Rules(order_ttl=timedelta(hours=1)))

    said = {line["order_id"]: line for line in logs if line["event"] == "order put right"}
    actions = {name: said.pop(str(orders[name].order_id), {}).get("action") for name in names}
    assert actions == {
        "waits": None,
        "lost": "replace job",
        "failed": "retry job",
        "told": "mark told",
        "paid": "write outcome",
        "old": "expire",
    }
    assert said == {}
    waiting = [jobs[name] for name in ("waits", "lost", "failed")]
    assert await resources.queues.states(waiting) == [JobState.LIVE] * 3
