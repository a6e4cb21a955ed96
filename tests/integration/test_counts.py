"""What the parts of a process count, as the process would tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from redis.exceptions import RedisError
from tests.integration.reconciling import lose_all_jobs, run

from orderflow import metrics
from orderflow.bull.queues import JobQueues, open_queues
from orderflow.charge import charge_payment
from orderflow.contract import JobName, NewJob, PaymentJob, PaymentMethod, payment_job
from orderflow.db import open_database
from orderflow.errors import DatabaseUnavailable
from orderflow.gateways import Charge
from orderflow.metrics.instruments import Counter, Reading
from orderflow.notify import notify_customer
from orderflow.reconcile import Rules, run_once
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port

HOUR = Rules(order_ttl=timedelta(hours=1), charge_at_most=timedelta(0))


@pytest.fixture
def risen() -> Callable[[Counter], dict[tuple[str, ...], float]]:
    """Return by how much a counter rose in this test, which is not the first of its process."""
    before = {
        id(counter): dict(counter)
        for counter in vars(metrics).values()
        if isinstance(counter, Counter)
    }

    def risen(counter: Counter) -> dict[tuple[str, ...], float]:
        start = before[id(counter)]
        rises = {labels: count - start.get(labels, 0) for labels, count in counter.items()}
        return {labels: rise for labels, rise in rises.items() if rise}

    return risen


def read(reading: Reading) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels.values()): s.value for s in reading.collect().samples}


def new_job(number: int) -> NewJob:
    return payment_job(f"p{number}", f"o{number}", "card", Decimal("1.00"))


async def pay(resources: Resources, receipt: Any, amount: Any = None) -> dict[str, Any]:
    job = PaymentJob.model_validate(
        {
            "paymentId": str(receipt.payment_id),
            "orderId": str(receipt.order_id),
            "paymentData": {"method": "card", "amount": amount or receipt.total},
        }
    )
    return await charge_payment(
        job, db=resources.db, gateway=resources.gateway, queues=resources.queues, currency="EUR"
    )


async def reconcile(resources: Resources, rules: Rules = HOUR) -> None:
    await run(resources, rules=rules)


async def test_an_order_that_is_paid(resources, place, risen):
    receipt = await place()
    await pay(resources, receipt)
    # A second delivery finds the first outcome.
    await pay(resources, receipt)
    total = float(receipt.total)
    assert risen(metrics.ORDERS) == {("placed",): 1, ("confirmed",): 1}
    assert risen(metrics.PAYMENTS) == {("paid", "card"): 1}
    assert risen(metrics.MONEY) == {("ordered", "EUR"): total, ("charged", "EUR"): total}
    assert risen(metrics.JOB_OFFERS) == {
        ("payment-processing", "added"): 1,
        ("notifications", "added"): 2,
    }


async def test_an_order_that_is_declined(resources, place, risen):
    await pay(resources, await place(paymentToken="tok_decline"))
    assert risen(metrics.ORDERS) == {("placed",): 1, ("cancelled",): 1}
    assert risen(metrics.PAYMENTS) == {("declined", "card"): 1}
    assert ("charged", "EUR") not in risen(metrics.MONEY)


async def test_an_order_of_a_stranger_paid_in_cash(resources, risen):
    job = PaymentJob.model_validate(
        {"paymentId": 7, "orderId": 8, "paymentData": {"method": "cash", "amount": "12.50"}}
    )
    await charge_payment(
        job, db=resources.db, gateway=resources.gateway, queues=resources.queues, currency="SEK"
    )
    assert risen(metrics.ORDERS) == {("adopted",): 1, ("confirmed",): 1}
    assert risen(metrics.PAYMENTS) == {("paid", "cash"): 1}
    assert risen(metrics.MONEY) == {("cash", "SEK"): 12.5}


async def test_how_long_a_customer_waits_to_be_told(resources, place, sql):
    receipt = await place()
    await pay(resources, receipt)
    await sql.execute("UPDATE orders SET created_at = now() - interval '20 s'")
    before = metrics.ORDER_SECONDS.collect()
    for _ in range(2):
        # The second one finds that all was sent.
        await notify_customer(
            str(receipt.order_id),
            kind=JobName.ORDER_CONFIRMATION,
            db=resources.db,
            senders=resources.senders,
            templates=resources.templates,
            claim_s=30,
        )

    def count(bound: str) -> float:
        after = metrics.ORDER_SECONDS.collect()
        return sum(
            sign * sample.value
            for sign, family in ((1, after), (-1, before))
            for sample in family.samples
            if sample.labels == {"outcome": "confirmed", "le": bound}
        )

    assert count("10.0") == 0
    assert count("3600.0") == 1


def runs_measured() -> float:
    samples = metrics.RECONCILER_RUN.collect().samples
    return sum(sample.value for sample in samples if sample.name.endswith("_count"))


async def test_what_the_reconciler_did(resources, place, redis, sql, risen):
    await place()
    lose_all_jobs(redis, resources)
    await place()
    assert metrics.RECONCILER_LAST_RUN[()] >= 0
    before = runs_measured()
    await reconcile(resources)
    assert risen(metrics.RECONCILER_RUNS) == {("done",): 1}
    assert risen(metrics.RECONCILER_ACTIONS) == {("jobs_added",): 1}
    assert metrics.RECONCILER_UNSETTLED[()] == 2
    ended = metrics.RECONCILER_LAST_RUN[()]
    assert ended > 0
    assert runs_measured() == before + 1

    await sql.execute("UPDATE orders SET created_at = now() - interval '2 h'")
    await reconcile(resources)
    assert risen(metrics.RECONCILER_ACTIONS) == {("jobs_added",): 1, ("orders_expired",): 2}
    assert risen(metrics.ORDERS) == {("placed",): 2, ("expired",): 2}
    assert risen(metrics.PAYMENTS) == {("expired", "card"): 2}
    assert metrics.RECONCILER_LAST_RUN[()] > ended


async def test_an_outcome_that_the_reconciler_wrote(resources, place, sql, risen):
    receipt = await place()
    await resources.gateway.charge(
        Charge(str(receipt.payment_id), receipt.total, "EUR", PaymentMethod.CARD, None)
    )
    await resources.queues.remove(
        payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
    )
    await sql.execute("UPDATE payments SET status = 'processing'")
    for _ in range(2):
        # The second run finds that it is written.
        await reconcile(resources)
    assert risen(metrics.RECONCILER_ACTIONS)["results_taken",] == 1
    assert risen(metrics.ORDERS) == {("placed",): 1, ("confirmed",): 1}
    assert risen(metrics.PAYMENTS) == {("paid", "card"): 1}
    assert risen(metrics.MONEY)["charged", "EUR"] == float(receipt.total)


async def test_a_run_beside_another_one_is_skipped(resources, risen):
    async with resources.db.transaction() as transaction:
        await transaction.fetchrow("lock_reconciler")
        await reconcile(resources)
    assert risen(metrics.RECONCILER_RUNS) == {("skipped",): 1}


async def test_a_run_that_redis_breaks_off_has_failed(resources, place, settings, risen):
    await place()
    ended = metrics.RECONCILER_LAST_RUN[()]
    away = settings.model_copy(update={"redis_url": None, "redis_port": free_port()})
    async with open_queues(away) as queues:
        with pytest.raises(RedisError):
            await run_once(
                db=resources.db, queues=queues, gateway=resources.gateway, grace_ms=0, rules=HOUR
            )
    assert risen(metrics.RECONCILER_RUNS) == {("failed",): 1}
    assert metrics.RECONCILER_LAST_RUN[()] == ended


@pytest.fixture
async def shallow(settings) -> AsyncIterator[JobQueues]:
    async with open_queues(settings.model_copy(update={"queue_depth_limit": 2})) as queues:
        yield queues


async def test_offers_to_a_queue_that_is_full(shallow, risen):
    for number in range(3):
        await shallow.offer(new_job(number))
        # What is known of the depth is a tenth of a second old at most.
        await asyncio.sleep(0.15)
    assert risen(metrics.JOB_OFFERS) == {
        ("payment-processing", "added"): 2,
        ("payment-processing", "full"): 1,
    }


async def test_offers_while_redis_is_away(settings, risen):
    away = settings.model_copy(update={"redis_url": None, "redis_port": free_port()})
    async with open_queues(away) as queues:
        changes = read(metrics.BREAKER_CHANGES)["redis",]
        for number in range(5):
            await queues.offer(new_job(number))
        assert risen(metrics.JOB_OFFERS) == {
            ("payment-processing", "failed"): 3,
            ("payment-processing", "resting"): 2,
        }
        assert read(metrics.BREAKER_OPEN)["redis",] == 1
        assert read(metrics.BREAKER_CHANGES)["redis",] == changes + 1
    assert read(metrics.BREAKER_OPEN) == {}


async def test_the_pool_tells_how_it_is_used(settings):
    def pool() -> tuple[float, ...]:
        readings = (metrics.POOL_SIZE, metrics.POOL_IDLE, metrics.POOL_WAITING, metrics.POOL_MAX)
        return tuple(read(reading)[()] for reading in readings)

    async with open_database(settings.database_dsn, 2, 5_000) as db:
        assert pool() == (0, 0, 0, 2)
        async with db.transaction():
            assert pool() == (1, 0, 0, 2)
            async with db.transaction():
                waiting = [asyncio.create_task(db.ping()) for _ in range(3)]
                async with asyncio.timeout(5):
                    while pool() != (2, 0, 3, 2):
                        await asyncio.sleep(0.01)
            await asyncio.gather(*waiting)
        assert pool() == (2, 2, 0, 2)
    assert read(metrics.POOL_SIZE) == {}


async def test_a_pool_without_a_server_has_nobody_waiting_in_the_end():
    async with open_database(f"postgresql://nobody@127.0.0.1:{free_port()}/x", 2, 1_000) as db:
        with pytest.raises(DatabaseUnavailable):
            await db.ping()
        assert read(metrics.POOL_WAITING) == {(): 0}


async def test_how_many_calls_share_a_statement(place):
    def counted() -> tuple[float, float]:
        samples = [
            sample
            for sample in metrics.BATCH_SIZE.collect().samples
            if sample.labels.get("statement") == "place_orders"
        ]
        total = {sample.name.rpartition("_")[2]: sample.value for sample in samples}
        return total.get("count", 0), total.get("sum", 0)

    statements, calls = counted()
    await asyncio.gather(*(place() for _ in range(10)))
    now_statements, now_calls = counted()
    assert now_calls - calls == 10
    assert 1 <= now_statements - statements < 10
