"""Cancelling at every moment of an order's way, and at the same time as its charge."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.integration.life import (
    cancel,
    charge,
    give_back,
    give_back_after,
    given_back,
    order_of,
    race_with_cancel,
    refund_of,
    ship,
    state_of,
    tell,
)
from tests.integration.reconciling import run
from tests.integration.test_charge import stock_of

from orderflow import refund
from orderflow.bull.ending import Postponed
from orderflow.bull.states import JobState
from orderflow.charge import charge_payment
from orderflow.contract import JobName, PaymentJob, order_event_job, refund_job
from orderflow.errors import (
    GatewayUnavailable,
    IllegalTransition,
    OrderNotFound,
)
from orderflow.invariants import count_violations
from orderflow.refund import refunds_of
from orderflow.testing import perform_job


async def test_an_order_that_is_paid_is_given_back(resources, place, gateway_server, sql):
    before = await stock_of(sql, "pot-glass")
    receipt = await place()
    await charge(resources, receipt)
    assert await cancel(resources, receipt) is True

    order, asked = await order_of(resources, receipt), await refund_of(resources, receipt)
    assert (order.status, order.payment_status) == ("cancelled", "completed")
    assert (asked.status, asked.amount, asked.cause) == ("pending", receipt.total, "cancel")
    assert await stock_of(sql, "pot-glass") == before
    job = refund_job(asked.refund_id, str(receipt.order_id))
    assert await state_of(resources, job) is JobState.LIVE

    result = await give_back(resources, receipt, asked.refund_id)

    charged = gateway_server.charge(receipt.payment_id)
    assert given_back(gateway_server, charged["id"]) == receipt.total
    assert result["success"] is True
    assert (await order_of(resources, receipt)).payment_status == "refunded"
    assert set((await count_violations(resources.db, resources.settings, 10)).values()) == {0}


async def test_one_that_nobody_charged_is_never_charged(resources, place, gateway_server, sql):
    before = await stock_of(sql, "pot-glass")
    receipt = await place()
    await cancel(resources, receipt)

    assert await refunds_of(receipt.order_id, db=resources.db) == []
    result = await charge(resources, receipt)
    assert result == {"success": False, "transactionId": None, "reason": "order_cancelled"}
    assert gateway_server.charge(receipt.payment_id) is None
    assert await stock_of(sql, "pot-glass") == before


async def test_cancelling_again_changes_nothing(resources, place, sql):
    before = await stock_of(sql, "pot-glass")
    receipt = await place()
    await charge(resources, receipt)
    answers = await asyncio.gather(*(cancel(resources, receipt) for _ in range(8)))

    assert sorted(answers) == [False] * 7 + [True]
    assert await stock_of(sql, "pot-glass") == before
    assert (await refund_of(resources, receipt)).amount == receipt.total
    assert await sql.fetchval("SELECT count(*) FROM order_events") == 1


async def test_what_is_shipped_stays_shipped(resources, place):
    receipt = await place()
    await charge(resources, receipt)
    await ship(resources, receipt)
    with pytest.raises(
        IllegalTransition, match=r"is shipped and cannot be cancelled; it may become: delivered"
    ):
        await cancel(resources, receipt)
    assert await refunds_of(receipt.order_id, db=resources.db) == []


async def test_an_order_of_somebody_else_is_not_found(resources, place):
    receipt = await place()
    with pytest.raises(OrderNotFound):
        await cancel(resources, receipt, owner="user-2")
    assert (await order_of(resources, receipt)).status == "pending"


async def test_a_charge_whose_answer_was_lost_is_found_and_given_back(
    resources, place, gateway_server
):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)
    await cancel(resources, receipt)
    asked = await refund_of(resources, receipt)

    await give_back(resources, receipt, asked.refund_id)

    charged = gateway_server.charge(receipt.payment_id)
    assert given_back(gateway_server, charged["id"]) == receipt.total
    assert (await refund_of(resources, receipt)).status == "completed"
    assert set((await count_violations(resources.db, resources.settings, 10)).values()) == {0}


async def test_a_charge_that_may_be_under_way_is_waited_for(resources, place):
    receipt = await place(paymentToken="tok_503")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)
    await cancel(resources, receipt)
    asked = await refund_of(resources, receipt)

    with pytest.raises(Postponed):
        await give_back(resources, receipt, asked.refund_id)
    assert (await refund_of(resources, receipt)).status == "pending"
    result = await give_back_after(resources, receipt, asked.refund_id, timedelta())
    assert result == {"success": False, "refundId": None, "reason": "nothing was charged"}
    assert (await refund_of(resources, receipt)).status == "void"


class SleepyGateway:
    """The gateway, behind a machine that sleeps before the charge."""

    def __init__(self, gateway) -> None:
        self._gateway = gateway
        self.asked = asyncio.Event()
        self.awake = asyncio.Event()

    async def charge(self, charge):
        self.asked.set()
        await self.awake.wait()
        return await self._gateway.charge(charge)


async def test_a_charge_that_comes_when_all_was_settled_is_given_back(
    resources, place, gateway_server, sql
):
    receipt = await place()
    sleepy = SleepyGateway(resources.gateway)
    data = {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": "card", "amount": str(receipt.total)},
    }
    charging = asyncio.create_task(
        charge_payment(
            PaymentJob.model_validate(data),
            db=resources.db,
            gateway=sleepy,
            queues=resources.queues,
            currency="EUR",
        )
    )
    await sleepy.asked.wait()
    await cancel(resources, receipt)
    first = await refund_of(resources, receipt)
    await give_back_after(resources, receipt, first.refund_id, timedelta())
    sleepy.awake.set()
    assert (await charging)["success"] is False

    [void, stray] = await refunds_of(receipt.order_id, db=resources.db)
    assert (void.status, stray.status, stray.cause) == ("void", "pending", "stray")
    job = refund_job(stray.refund_id, str(receipt.order_id))
    assert await state_of(resources, job) is JobState.MISSING
    counts = await run(resources, grace_ms=1)
    assert counts.follow_ups >= 1
    assert await state_of(resources, job) is JobState.LIVE
    await give_back(resources, receipt, stray.refund_id)
    charged = gateway_server.charge(receipt.payment_id)
    assert given_back(gateway_server, charged["id"]) == receipt.total
    assert await sql.fetchval("SELECT refunded_at IS NOT NULL FROM stray_charges")


async def test_cash_would_have_been_paid_at_the_door(resources, place):
    receipt = await place(paymentMethod="cash", paymentToken=None)
    await charge(resources, receipt, "cash")
    await cancel(resources, receipt)

    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("cancelled", "refunded")
    assert await refunds_of(receipt.order_id, db=resources.db) == []
    assert set((await count_violations(resources.db, resources.settings, 10)).values()) == {0}


async def test_a_refund_that_is_declined_is_left_to_a_person(resources, place):
    receipt = await place(paymentToken="tok_refund_decline")
    await charge(resources, receipt)
    await cancel(resources, receipt)
    asked = await refund_of(resources, receipt)
    result = await give_back(resources, receipt, asked.refund_id)

    assert result == {"success": False, "refundId": None, "reason": "refund_declined"}
    violations = await count_violations(resources.db, resources.settings, 10)
    assert violations["payment_without_order"] == 1
    again = await refund.request_refund(
        str(receipt.order_id), None, "by-hand", db=resources.db, queues=resources.queues
    )
    assert again.amount == receipt.total


async def test_the_customer_is_told_once_of_the_cancel_and_once_of_the_money(
    resources, place, mail_server
):
    receipt = await place()
    await charge(resources, receipt)
    await cancel(resources, receipt)
    asked = await refund_of(resources, receipt)
    await give_back(resources, receipt, asked.refund_id)
    for _ in range(2):
        await tell(resources, "order-cancelled", receipt)
        await tell(resources, "order-refunded", receipt, asked.refund_id)
        # What was on its way when the order was cancelled says nothing any more.
        data = {"orderId": str(receipt.order_id), "userId": "user-1"}
        late = await perform_job("notification", "order-confirmation", data, resources)
        assert late == {"success": True, "sent": []}

    cancelled, refunded = mail_server.mails(receipt.order_id)
    assert cancelled["Subject"] == f"Your order {receipt.order_id} is cancelled"
    assert "You get 68.00 EUR back" in cancelled.get_body(["plain"]).get_content()
    assert refunded["Subject"].startswith("68.00 EUR for your order")


async def test_an_event_that_nobody_was_told_of_gets_its_job_back(resources, place, sql):
    receipt = await place()
    await charge(resources, receipt)
    await cancel(resources, receipt)
    job = order_event_job(JobName.ORDER_CANCELLED, str(receipt.order_id), "user-1")
    assert await resources.queues.remove(job)

    await run(resources, grace_ms=1)

    assert await state_of(resources, job) is JobState.LIVE
    await tell(resources, "order-cancelled", receipt)
    assert await sql.fetchval("SELECT told_at IS NOT NULL FROM order_events")


async def test_with_redis_away_a_cancel_is_kept(resources, place, monkeypatch):
    receipt = await place()
    await charge(resources, receipt)

    async def nothing_arrives(_job):
        raise ConnectionError

    monkeypatch.setattr(resources.queues, "add", nothing_arrives)
    assert await cancel(resources, receipt) is True
    assert (await refund_of(resources, receipt)).status == "pending"


TOKENS = ("tok_approve", "tok_approve", "tok_lost_answer", "tok_decline", "tok_503_twice")
RUNS, AT_ONCE = 50, 10


async def test_a_cancel_at_the_same_time_as_the_charge_ends_in_one_of_two(
    patient, place, gateway_server, sql
):
    """Shipped before it and kept, or nothing taken that is not given back."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    before = await stock_of(sql, "pot-glass")
    few = asyncio.Semaphore(AT_ONCE)

    async def race(n):
        chance = random.Random(seed + n)
        receipt = await place(
            items=[{"sku": "pot-glass", "quantity": 1}], paymentToken=chance.choice(TOKENS)
        )
        async with few:
            return receipt, await race_with_cancel(patient, receipt, chance)

    races = await asyncio.gather(*map(race, range(RUNS)))

    back = Counter()
    for entry in gateway_server.refunds():
        back[entry["chargeId"]] += Decimal(entry["amount"])
    endings = Counter()
    for receipt, cancelled in races:
        order = await order_of(patient, receipt)
        charged = gateway_server.charge(receipt.payment_id)
        taken = charged is not None and charged["status"] == "succeeded"
        given = back[charged["id"]] if taken else 0
        if cancelled is True:
            assert order.status == "cancelled"
            assert given == (receipt.total if taken else 0)
            endings["given back" if taken else "never taken"] += 1
        else:
            # Refused, since it was shipped; or found cancelled, since the card was declined.
            assert given == 0
            assert (order.status, taken) in (("shipped", True), ("cancelled", False))
            endings[order.status.value] += 1
    print(dict(endings))
    assert await stock_of(sql, "pot-glass") == before - endings["shipped"]
    violations = await count_violations(patient.db, patient.settings, 1_000)
    assert {name: count for name, count in violations.items() if count} == {}
