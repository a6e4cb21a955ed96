"""Refunds by an admin: whole or in part, never more than was charged, each given back once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from tests.integration.life import charge, give_back, given_back, order_of, state_of, tell
from tests.integration.reconciling import run

from orderflow.bull.ending import Postponed
from orderflow.bull.states import JobState
from orderflow.contract import refund_job
from orderflow.errors import (
    GatewayUnavailable,
    IdempotencyKeyReused,
    NothingToRefund,
    OrderNotFound,
    RefundTooLarge,
)
from orderflow.invariants import count_violations
from orderflow.refund import refunds_of, request_refund


async def test_a_part_and_then_the_rest_is_given_back(resources, paid, ask, gateway_server):
    receipt = await paid()
    charged = gateway_server.charge(receipt.payment_id)["id"]
    part = await ask(receipt, "8.50", "part")
    await give_back(resources, receipt, part.refund_id)
    assert given_back(gateway_server, charged) == Decimal("8.50")
    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("confirmed", "completed")

    rest = await ask(receipt, None, "rest")
    assert rest.amount == Decimal("59.50")
    await give_back(resources, receipt, rest.refund_id)
    assert given_back(gateway_server, charged) == receipt.total
    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("confirmed", "refunded")
    with pytest.raises(RefundTooLarge, match=r"only 0\.00 EUR are left"):
        await ask(receipt, "0.01", "more")


async def test_ten_that_ask_at_once_get_no_more_than_was_charged(paid, ask, sql):
    receipt = await paid()
    asked = await asyncio.gather(
        *(ask(receipt, "20.00", f"key-{n}") for n in range(10)), return_exceptions=True
    )
    assert [type(answer) for answer in asked].count(RefundTooLarge) == 7
    assert await sql.fetchval("SELECT sum(amount) FROM refunds") == Decimal("60.00")


async def test_one_key_is_one_refund(resources, paid, ask):
    receipt = await paid()
    first, *others = await asyncio.gather(*(ask(receipt, "1.00") for _ in range(8)))
    assert {other.refund_id for other in others} == {first.refund_id}
    with pytest.raises(IdempotencyKeyReused):
        await ask(receipt, "2.00")
    assert len(await refunds_of(receipt.order_id, db=resources.db)) == 1


async def test_twenty_deliveries_give_back_once(resources, paid, ask, gateway_server, sql):
    receipt = await paid()
    asked = await ask(receipt, "10.00")
    results = await asyncio.gather(
        *(give_back(resources, receipt, asked.refund_id) for _ in range(20))
    )
    assert len({result["refundId"] for result in results}) == 1
    charged = gateway_server.charge(receipt.payment_id)["id"]
    assert given_back(gateway_server, charged) == Decimal("10.00")
    assert await sql.fetchval("SELECT count(*) FROM order_events") == 1


async def test_a_lost_answer_is_asked_about_and_given_back_once(
    resources, paid, ask, gateway_server
):
    receipt = await paid(paymentToken="tok_refund_lost_answer")
    asked = await ask(receipt)
    with pytest.raises(GatewayUnavailable):
        await give_back(resources, receipt, asked.refund_id)
    [unknown] = await refunds_of(receipt.order_id, db=resources.db)
    assert unknown.status == "processing"

    assert (await give_back(resources, receipt, asked.refund_id))["success"] is True
    charged = gateway_server.charge(receipt.payment_id)["id"]
    assert given_back(gateway_server, charged) == receipt.total


async def test_an_outage_is_an_attempt(resources, paid, ask):
    receipt = await paid(paymentToken="tok_refund_503_twice")
    asked = await ask(receipt)
    for _ in range(2):
        with pytest.raises(GatewayUnavailable, match="HTTP 503"):
            await give_back(resources, receipt, asked.refund_id)
    assert (await give_back(resources, receipt, asked.refund_id))["success"] is True


async def test_one_that_is_pending_costs_no_attempt(resources, paid, ask, gateway_server):
    receipt = await paid(paymentToken="tok_refund_late")
    asked = await ask(receipt)
    for _ in range(2):
        with pytest.raises(Postponed):
            await give_back(resources, receipt, asked.refund_id)
    charged = gateway_server.charge(receipt.payment_id)["id"]
    assert given_back(gateway_server, charged) == 0
    assert (await give_back(resources, receipt, asked.refund_id))["success"] is True
    assert given_back(gateway_server, charged) == receipt.total


async def test_a_decline_is_an_outcome_and_leaves_the_money_to_be_asked_for(resources, paid, ask):
    receipt = await paid(paymentToken="tok_refund_decline")
    asked = await ask(receipt)
    result = await give_back(resources, receipt, asked.refund_id)
    assert result == {"success": False, "refundId": None, "reason": "refund_declined"}
    assert (await order_of(resources, receipt)).payment_status == "completed"
    assert (await ask(receipt, None, "again")).amount == receipt.total


async def test_cash_is_given_back_by_hand(resources, place, ask):
    receipt = await place(paymentMethod="cash", paymentToken=None)
    await charge(resources, receipt, "cash")
    asked = await ask(receipt, "4.00")
    result = await give_back(resources, receipt, asked.refund_id)
    assert result == {"success": True, "refundId": None}


async def test_what_was_not_paid_is_not_given_back(place, ask):
    receipt = await place()
    with pytest.raises(NothingToRefund, match="is pending: only one that is completed"):
        await ask(receipt)


async def test_an_order_that_is_not_known_is_named(resources):
    with pytest.raises(OrderNotFound, match="There is no order 'nobody'"):
        await request_refund("nobody", None, "a", db=resources.db, queues=resources.queues)


async def test_a_refund_whose_job_is_gone_gets_it_back(resources, paid, ask):
    receipt = await paid()
    asked = await ask(receipt)
    job = refund_job(asked.refund_id, str(receipt.order_id))
    assert await resources.queues.remove(job)
    await run(resources, grace_ms=1)
    assert await state_of(resources, job) is JobState.LIVE


async def test_each_refund_is_told_once(resources, paid, ask, mail_server):
    receipt = await paid()
    for amount in ("1.00", "2.00"):
        asked = await ask(receipt, amount, amount)
        await give_back(resources, receipt, asked.refund_id)
        for _ in range(3):
            await tell(resources, "order-refunded", receipt, asked.refund_id)

    subjects = [str(mail["Subject"]) for mail in mail_server.mails(receipt.order_id)]
    assert [subject.partition(" for")[0] for subject in subjects] == ["1.00 EUR", "2.00 EUR"]


async def test_a_refund_that_a_hand_made_too_large_is_noticed(resources, paid, ask, sql):
    receipt = await paid()
    await ask(receipt)
    await sql.execute("UPDATE refunds SET amount = amount + 1")
    violations = await count_violations(resources.db, resources.settings, 10)
    assert violations["refunded_too_much"] == 1
