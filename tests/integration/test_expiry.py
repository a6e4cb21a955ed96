"""Orders that outlive ORDER_TTL_S: cancelled once it is sure that no money is taken for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import asyncpg
import httpx
import pytest
from redis import Redis
from tests.integration import reconciling

from orderflow.bull.states import JobState
from orderflow.charge import charge_payment, expire_payment
from orderflow.checkout import Receipt
from orderflow.contract import PaymentJob, PaymentMethod, payment_failed_job, payment_job
from orderflow.gateways import Approved, Charge, Outcome
from orderflow.gateways.sandbox import SandboxGateway
from orderflow.reconcile import Counts, Rules
from orderflow.resources import Resources

RULES = Rules(order_ttl=timedelta(hours=1), charge_at_most=timedelta(minutes=2))


async def run(resources: Resources) -> Counts:
    return await reconciling.run(resources, rules=RULES)


async def run_over_rested(resources: Resources, sql: asyncpg.Connection) -> Counts:
    return await reconciling.run_over_rested(resources, sql, RULES)


def job_of(receipt: Receipt):
    return payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)


async def stock(sql: asyncpg.Connection) -> int:
    return await sql.fetchval("SELECT stock FROM products WHERE sku = 'pot-glass'")


@pytest.fixture
async def old_order(place, sql) -> Receipt:
    """An order of two hours ago, whose job still waits."""
    receipt = await place()
    await sql.execute("UPDATE orders SET created_at = now() - interval '2 h'")
    return receipt


@pytest.fixture
async def silent(resources) -> AsyncIterator[Resources]:
    """The same, but for a gateway that cannot be reached."""
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        yield replace(resources, gateway=SandboxGateway(client))


async def begin_charge(sql: asyncpg.Connection, ago: str) -> None:
    await sql.execute(f"UPDATE payments SET status = 'processing', updated_at = now() - {ago}")
    await sql.execute("UPDATE orders SET status = 'processing'")


async def test_it_is_cancelled_with_its_job_and_its_stock_goes_back(
    resources, old_order, place, sql
):
    before = await stock(sql)
    young = await place()
    assert await stock(sql) == before - 2

    assert await run_over_rested(resources, sql) == Counts(unsettled=2, orders_expired=1)

    assert await stock(sql) == before
    order = await sql.fetchrow("SELECT * FROM order_details WHERE id = $1", old_order.order_id)
    assert (order["status"], order["payment_status"]) == ("cancelled", "failed")
    assert order["decline_reason"] == "expired"
    states = await resources.queues.states([job_of(old_order), job_of(young)])
    assert states == [JobState.MISSING, JobState.LIVE]

    # The next run has the customer told, once, and nothing is given back twice.
    assert await run(resources) == Counts(unsettled=2, jobs_added=1)
    assert await run(resources) == Counts(unsettled=2)
    told = payment_failed_job(str(old_order.order_id), "user-1", "expired")
    assert await resources.queues.states([told]) == [JobState.LIVE]
    assert await stock(sql) == before


@pytest.mark.usefixtures("old_order")
async def test_without_a_limit_no_order_is_too_old(resources):
    assert await reconciling.run(resources) == Counts(unsettled=1)


async def test_one_whose_money_was_taken_is_confirmed_instead(resources, old_order, sql):
    await begin_charge(sql, "interval '1 h'")
    charge = Charge(
        str(old_order.payment_id), old_order.total, "EUR", PaymentMethod.CARD, "tok_approve"
    )
    taken = await resources.gateway.charge(charge)
    assert isinstance(taken, Approved)

    assert await run_over_rested(resources, sql) == Counts(unsettled=1, results_taken=1)

    row = await sql.fetchrow(
        "SELECT o.status, p.transaction_id FROM orders o JOIN payments p ON p.order_id = o.id"
    )
    assert tuple(row) == ("confirmed", taken.transaction_id)


async def test_nothing_is_cancelled_while_the_gateway_cannot_be_asked(silent, old_order, sql):
    assert await run(silent) == Counts(unsettled=1, put_off=1)
    assert await sql.fetchval("SELECT status FROM orders") == "pending"
    assert await silent.queues.states([job_of(old_order)]) == [JobState.LIVE]


@pytest.mark.parametrize(
    ("ago", "counts"),
    [
        ("interval '1 s'", Counts(unsettled=1, put_off=1)),
        ("interval '5 min'", Counts(unsettled=1, orders_expired=1)),
    ],
)
@pytest.mark.usefixtures("old_order")
async def test_a_charge_that_began_is_given_its_time(resources, sql, ago, counts):
    await begin_charge(sql, ago)
    assert await run_over_rested(resources, sql) == counts


async def test_what_a_worker_holds_is_left_to_it(resources, old_order, redis: Redis, settings, sql):
    job = job_of(old_order)
    prefix = f"{settings.queue_prefix}:{job.queue}"
    redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.rpush(f"{prefix}:active", job.job_id)
    redis.set(f"{prefix}:{job.job_id}:lock", "token")

    assert await run(resources) == Counts(unsettled=1)

    assert await sql.fetchval("SELECT status FROM orders") == "pending"
    assert redis.lrange(f"{prefix}:active", 0, -1) == [job.job_id]
    assert await resources.queues.remove(job) is False, "BullMQ refuses it as well"


async def test_a_worker_that_comes_too_late_charges_nothing(resources, old_order, gateway_server):
    await run(resources)
    result = await charge_payment(
        PaymentJob.model_validate(job_of(old_order).data),
        db=resources.db,
        gateway=resources.gateway,
        queues=resources.queues,
        currency="EUR",
    )
    assert result == {"success": False, "transactionId": None, "reason": "expired"}
    assert gateway_server.charge(old_order.payment_id) is None


class SleepyGateway:
    """The gateway, behind a machine that sleeps between the question and the charge."""

    def __init__(self, gateway) -> None:
        self._gateway = gateway
        self.asked = asyncio.Event()
        self.awake = asyncio.Event()

    async def charge(self, charge: Charge) -> Outcome:
        self.asked.set()
        await self.awake.wait()
        return await self._gateway.charge(charge)

    async def find(self, charge: Charge) -> Outcome | None:
        return await self._gateway.find(charge)


async def test_a_charge_that_comes_after_all_is_written_down(resources, old_order, sql):
    sleepy = SleepyGateway(resources.gateway)
    charging = asyncio.create_task(
        charge_payment(
            PaymentJob.model_validate(job_of(old_order).data),
            db=resources.db,
            gateway=sleepy,
            queues=resources.queues,
            currency="EUR",
        )
    )
    await sleepy.asked.wait()
    assert await expire_payment(old_order.payment_id, 60, resources.db) is False
    assert await run(resources) == Counts(unsettled=1, put_off=1)

    # For longer than any worker may be at it, says the row; so it is given up.
    await sql.execute("UPDATE payments SET updated_at = now() - interval '1 h'")
    assert await run_over_rested(resources, sql) == Counts(unsettled=1, orders_expired=1)
    sleepy.awake.set()

    assert (await charging)["success"] is False, "the order stays cancelled"
    charge = Charge(str(old_order.payment_id), old_order.total, "EUR", PaymentMethod.CARD, None)
    known = await resources.gateway.find(charge)
    assert isinstance(known, Approved)
    stray = await sql.fetchrow("SELECT * FROM stray_charges")
    assert stray["payment_id"] == old_order.payment_id
    assert (stray["transaction_id"], stray["refunded_at"]) == (known.transaction_id, None)
