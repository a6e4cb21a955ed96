"""Stripe's books beside ours, and what Stripe tells of refunds and disputes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tests.integration.life import cancel, charge, give_back, order_of, refund_of
from tests.integration.stripe_server import DECLINED, VISA, Fault, at_stripe, signed

from orderflow import books
from orderflow.api.app import create_app
from orderflow.errors import GatewayUnavailable
from orderflow.gateways import stripe as adapter

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def settings(settings, stripe):
    return at_stripe(settings, stripe)


async def payment_of(resources, receipt):
    return (await order_of(resources, receipt)).payment_status


@pytest.fixture
def compare(resources, monkeypatch):
    """Compare all that was made in this test."""
    monkeypatch.setattr("orderflow.books.sides.GRACE", timedelta())

    async def compare():
        now = datetime.now(UTC)
        since, until = now - timedelta(hours=1), now + timedelta(seconds=1)
        found = await books.compare_books(since, until, db=resources.db, gateway=resources.gateway)
        differences = [(d.entry.value, d.kind.value, d.settled) for d in found.differences]
        return found.charges, found.refunds, differences

    return compare


async def test_books_that_agree_differ_in_nothing(
    resources, paid, place, ask, compare, monkeypatch
):
    monkeypatch.setattr(adapter, "_PAGE_SIZE", 2)
    receipts = [await paid(paymentToken=VISA) for _ in range(5)]
    for receipt in receipts[:3]:
        asked = await ask(receipt, "1.00")
        await give_back(resources, receipt, asked.refund_id)
    await charge(resources, await place(paymentToken=DECLINED))
    assert await compare() == (5, 3, [])


async def test_an_outcome_that_nobody_wrote_is_written(hasty, place, stripe, compare):
    receipt = await place(paymentToken=VISA)
    stripe.faults.append(Fault("/confirm", is_lost=True))
    with pytest.raises(GatewayUnavailable):
        await charge(hasty, receipt)
    assert await compare() == (1, 0, [("charge", "unwritten", True)])
    assert await payment_of(hasty, receipt) == "completed"
    assert await compare() == (1, 0, [])


async def test_a_refund_whose_outcome_nobody_wrote_is_written(hasty, paid, ask, stripe, compare):
    receipt = await paid(paymentToken=VISA)
    asked = await ask(receipt)
    stripe.faults.append(Fault("/refunds", is_lost=True))
    with pytest.raises(GatewayUnavailable):
        await give_back(hasty, receipt, asked.refund_id)
    assert await compare() == (1, 1, [("refund", "unwritten", True)])
    assert await payment_of(hasty, receipt) == "refunded"


async def test_what_was_made_by_other_means_is_told(paid, stripe, compare):
    receipt = await paid(paymentToken=VISA)
    stripe.give_back(stripe.intent(receipt.payment_id), 200)
    stripe.call("POST", "/v1/charges", amount="500", currency="eur", source=VISA)
    found = await compare()
    assert found == (2, 1, [("charge", "unknown", False), ("refund", "unknown", False)])


async def test_a_refund_that_failed_after_all_is_missing(resources, paid, ask, stripe, compare):
    receipt = await paid(paymentToken=VISA)
    asked = await ask(receipt)
    await give_back(resources, receipt, asked.refund_id)
    [made] = stripe.refunds(stripe.intent(receipt.payment_id))
    stripe.end_refund(made, "failed")
    assert await compare() == (1, 0, [("refund", "missing", False)])


async def test_a_charge_that_stripe_does_not_have_is_missing(paid, sql, compare):
    await paid(paymentToken=VISA)
    await sql.execute("UPDATE payments SET transaction_id = 'pi_of_another_account'")
    _, _, differences = await compare()
    assert ("charge", "missing", False) in differences


async def test_what_a_cancel_gave_back_leaves_no_difference(hasty, place, stripe, compare):
    receipt = await place(paymentToken=VISA)
    stripe.faults.append(Fault("/confirm", is_lost=True))
    with pytest.raises(GatewayUnavailable):
        await charge(hasty, receipt)
    await cancel(hasty, receipt)
    asked = await refund_of(hasty, receipt)
    await give_back(hasty, receipt, asked.refund_id)
    assert await compare() == (1, 1, [])


@pytest.mark.parametrize("kind", ["charge.refunded", "refund.failed", "charge.dispute.created"])
async def test_what_is_told_of_refunds_is_answered_and_left_to_the_books(
    settings, resources, paid, stripe, sql, compare, kind
):
    """Stripe sends an event again for days, unless it is answered."""
    receipt = await paid(paymentToken=VISA)
    intent = stripe.intent(receipt.payment_id)
    about = stripe.give_back(intent, 6800)
    if kind == "charge.refunded":
        # A charge has the metadata of its intent.
        about = stripe.call("GET", "/v1/charges")["data"][0] | {"metadata": intent["metadata"]}
    elif kind == "charge.dispute.created":
        about = {"object": "dispute", "charge": about["charge"], "metadata": {}}
    told = {
        "id": "evt_1",
        "type": kind,
        "created": int(time.time()),
        "data": {"object": about},
    }
    body, signature = signed(told, int(time.time()))
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s.test") as api,
    ):
        headers = {"Stripe-Signature": signature}
        answer = await api.post("/webhooks/stripe", content=body, headers=headers)
    assert (answer.status_code, answer.json()["new"]) == (200, False)
    assert await sql.fetchval("SELECT count(*) FROM gateway_events") == 0
    assert await payment_of(resources, receipt) == "completed"
    assert await compare() == (1, 1, [("refund", "unknown", False)])
