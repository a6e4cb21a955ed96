"""Charges by Stripe's own client, against localstripe and the shapes that Stripe documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from bullmq import UnrecoverableError
from tests.integration import life
from tests.integration.reconciling import run, run_over_rested
from tests.integration.stripe_server import (
    API_KEY,
    CAREFUL,
    DECLINED,
    VISA,
    Fault,
    Stripe,
    at_stripe,
    error,
)

from orderflow.bull.states import JobState
from orderflow.contract import PaymentMethod, order_confirmation_job, payment_failed_job
from orderflow.errors import GatewayRefused, GatewayUnavailable
from orderflow.gateways import (
    ActionRequired,
    Approved,
    Charge,
    Declined,
    EntryKind,
    Refund,
    Refunded,
    RefundPending,
)
from orderflow.gateways.minor_units import from_minor_units, to_minor_units
from orderflow.gateways.stripe import StripeGateway, open_gateway
from orderflow.reconcile import Counts, Rules
from orderflow.settings import Settings

#: Stripe's client hands httpx its forms in a way that httpx means to give up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@asynccontextmanager
async def opened(stripe: Stripe, **changes: Any) -> AsyncIterator[StripeGateway]:
    given = {"gateway_url": stripe.url, "gateway_api_key": API_KEY, "payment_gateway": "stripe"}
    async with open_gateway(Settings(_env_file=None, **given | changes)) as gateway:
        yield gateway


@pytest.fixture
async def gateway(stripe: Stripe) -> AsyncIterator[StripeGateway]:
    async with opened(stripe) as gateway:
        yield gateway


def charge(token: str | None = VISA, **changes: Any) -> Charge:
    made = Charge(str(uuid4()), Decimal("68.00"), "EUR", PaymentMethod.CARD, token)
    return replace(made, **changes)


async def test_a_card_is_charged_once_under_the_key(stripe, gateway):
    asked = charge()
    first = await gateway.charge(asked)
    assert isinstance(first, Approved)
    assert await gateway.charge(asked) == first
    assert await gateway.find(replace(asked, token=None)) == first

    [intent] = stripe.intents(asked.key)
    assert (intent["id"], intent["amount"], intent["currency"]) == (
        first.transaction_id,
        6800,
        "eur",
    )


async def test_workers_that_charge_at_once_take_the_money_once(stripe, gateway):
    asked = charge()
    replies = await asyncio.gather(
        *(gateway.charge(asked) for _ in range(5)), return_exceptions=True
    )
    # Who came between the creation of another's intent and its end asks again.
    assert all(isinstance(reply, Approved | GatewayUnavailable) for reply in replies), replies
    assert isinstance(await gateway.find(asked), Approved)
    paid = [one for one in stripe.intents(asked.key) if one["status"] == "succeeded"]
    assert len(paid) == 1


async def test_a_charge_that_never_came_is_not_found_and_takes_no_money(stripe, gateway):
    asked = charge()
    assert await gateway.find(asked) is None
    [intent] = stripe.intents(asked.key)
    assert intent["status"] == "requires_payment_method"
    # The charge that follows is of the intent that the question made.
    assert await gateway.charge(asked) == Approved(intent["id"])


@pytest.mark.parametrize("lost", ["/payment_intents", "/confirm"])
async def test_a_charge_whose_answer_was_lost_is_found(stripe, lost):
    asked = charge()
    async with opened(stripe, gateway_timeout_ms=500) as gateway:
        stripe.faults.append(Fault(lost, is_lost=True))
        with pytest.raises(GatewayUnavailable, match="Timeout"):
            await gateway.charge(asked)
        found = await gateway.find(asked)
        assert isinstance(found, Approved) == (lost == "/confirm")
        paid = found or await gateway.charge(asked)
    [intent] = stripe.intents(asked.key)
    assert (intent["status"], paid) == ("succeeded", Approved(intent["id"]))


async def test_an_old_charge_is_found_by_its_metadata(stripe, gateway):
    asked = charge()
    paid = await gateway.charge(asked)
    stripe.forget_keys()
    assert await gateway.find(asked) == paid
    # The intent that this question made is nothing to the next one, either.
    assert await gateway.find(asked) == paid
    assert len(stripe.intents(asked.key)) == 2
    assert await gateway.cancel(asked) == paid


async def test_a_key_that_would_end_the_search_s_quotes_is_searched_as_it_is(gateway):
    asked = charge(key="it's a \\ key")
    assert await gateway.find(asked) is None


async def test_a_decline_is_final_at_stripe_too(stripe, gateway):
    asked = charge(DECLINED)
    assert await gateway.charge(asked) == Declined("card_declined")
    assert await gateway.find(asked) == Declined("card_declined")
    assert await gateway.charge(replace(asked, token=VISA)) == Declined("card_declined")
    [intent] = stripe.intents(asked.key)
    assert intent["status"] == "canceled"


@pytest.mark.parametrize(
    ("code", "decline_code", "reason"),
    [
        ("card_declined", "insufficient_funds", "insufficient_funds"),
        ("expired_card", None, "expired_card"),
        ("incorrect_cvc", "incorrect_cvc", "incorrect_cvc"),
        # What the holder of a stolen card should not learn.
        ("card_declined", "stolen_card", "card_declined"),
        ("card_declined", "fraudulent", "card_declined"),
    ],
)
async def test_declines_have_reasons_that_a_customer_may_know(
    stripe, gateway, code, decline_code, reason
):
    body = error("card_error", code)
    body["error"]["decline_code"] = decline_code
    stripe.faults.append(Fault("/confirm", 402, body))
    assert await gateway.charge(charge()) == Declined(reason)


async def test_a_token_that_stripe_does_not_know_is_a_decline(stripe, gateway):
    asked = charge("pm_nobody_has_this")
    assert await gateway.charge(asked) == Declined("invalid_payment_method")
    assert stripe.intents(asked.key)[0]["status"] == "canceled"


async def test_an_amount_that_stripe_does_not_take_is_a_decline(stripe, gateway):
    too_small = error("invalid_request_error", "amount_too_small", "amount")
    stripe.faults.append(Fault("/payment_intents", 400, too_small))
    asked = charge(amount=Decimal("0.10"))
    assert await gateway.charge(asked) == Declined("amount_too_small")
    assert await gateway.find(asked) == Declined("amount_too_small")
    assert await gateway.cancel(asked) == Declined("amount_too_small")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error("invalid_request_error")),
        (403, error("invalid_request_error")),
        (409, error("idempotency_error", "idempotency_key_in_use")),
        (429, error("invalid_request_error", "rate_limit")),
        (503, error("api_error")),
        (502, {"no": "error of Stripe"}),
    ],
)
async def test_what_says_nothing_of_the_charge_is_an_outage(stripe, gateway, status, body):
    stripe.faults.append(Fault("/payment_intents", status, body))
    asked = charge()
    with pytest.raises(GatewayUnavailable, match=f"HTTP {status}"):
        await gateway.charge(asked)
    assert isinstance(await gateway.charge(asked), Approved)


async def test_a_fault_that_stripe_keeps_holds_nobody_up(stripe, gateway):
    asked = charge()
    stripe.faults += [Fault("/payment_intents"), Fault("/payment_intents")]
    for _ in range(2):
        with pytest.raises(GatewayUnavailable, match="HTTP 500"):
            await gateway.charge(asked)
    paid = await gateway.charge(asked)
    assert isinstance(paid, Approved)
    assert await gateway.find(asked) == paid


async def test_a_request_that_stripe_refuses_is_told_without_its_words(stripe, gateway):
    body = error("invalid_request_error", "parameter_unknown", "currency")
    body["error"]["message"] = "Invalid currency: ada@shop.example"
    stripe.faults.append(Fault("/payment_intents", 400, body))
    with pytest.raises(GatewayRefused, match="HTTP 400, parameter_unknown, currency") as refused:
        await gateway.charge(charge())
    assert "ada" not in str(refused.value)


async def test_a_server_that_is_not_there_is_an_outage(stripe):
    async with opened(stripe, gateway_url="http://127.0.0.1:9") as gateway:
        with pytest.raises(GatewayUnavailable, match="ConnectError"):
            await gateway.charge(charge())


async def test_without_a_key_payments_wait():
    async with open_gateway(Settings(_env_file=None, payment_gateway="stripe")) as gateway:
        with pytest.raises(GatewayUnavailable, match="GATEWAY_API_KEY is not set"):
            await gateway.charge(charge())


async def test_a_card_that_asks_for_its_holder_waits(stripe, gateway):
    asked = charge(stripe.card(CAREFUL))
    waits = await gateway.charge(asked)
    [intent] = stripe.intents(asked.key)
    assert waits == ActionRequired(intent["id"], intent["client_secret"])
    assert intent["client_secret"] not in repr(waits)
    assert await gateway.find(asked) == waits
    stripe.authenticate(intent, success=True)
    assert await gateway.find(asked) == Approved(intent["id"])


async def test_a_holder_who_fails_declines(stripe, gateway):
    asked = charge(stripe.card(CAREFUL))
    await gateway.charge(asked)
    [intent] = stripe.intents(asked.key)
    stripe.authenticate(intent, success=False)
    assert await gateway.find(asked) == Declined("payment_intent_authentication_failure")
    assert stripe.intents(asked.key)[0]["status"] == "canceled"


@pytest.mark.parametrize(
    ("method", "token"),
    [(PaymentMethod.ONLINE, None), (PaymentMethod.ONLINE, VISA), (PaymentMethod.WALLET, None)],
)
async def test_what_is_paid_in_the_browser_waits(stripe, gateway, method, token):
    asked = charge(token, method=method)
    waits = await gateway.charge(asked)
    [intent] = stripe.intents(asked.key)
    assert waits == ActionRequired(intent["id"], intent["client_secret"])
    assert ("POST", f"/v1/payment_intents/{intent['id']}/confirm") not in stripe.asked


async def test_a_wallet_with_a_token_is_charged(gateway):
    assert isinstance(await gateway.charge(charge(method=PaymentMethod.WALLET)), Approved)


async def test_a_charge_that_is_called_off_takes_no_money(stripe, gateway):
    asked = charge(stripe.card(CAREFUL))
    await gateway.charge(asked)
    assert await gateway.cancel(asked) is None
    [intent] = stripe.intents(asked.key)
    assert intent["status"] == "canceled"
    # As an order that outlived its time, whoever looks next.
    assert await gateway.find(asked) == Declined("expired")
    assert await gateway.charge(asked) == Declined("expired")


async def test_a_charge_that_is_done_cannot_be_called_off(gateway):
    asked = charge()
    paid = await gateway.charge(asked)
    assert await gateway.cancel(asked) == paid


async def test_a_customer_who_is_faster_than_the_cancellation_has_paid(stripe, gateway):
    asked = charge(stripe.card(CAREFUL))
    waits = await gateway.charge(asked)
    [intent] = stripe.intents(asked.key)
    refusal = error("invalid_request_error", "payment_intent_unexpected_state")
    stripe.faults.append(Fault("/cancel", 400, refusal))
    # As a bank debit on its way, which Stripe does not stop.
    with pytest.raises(GatewayRefused, match="that is requires_action cannot be cancelled"):
        await gateway.cancel(asked)
    stripe.authenticate(intent, success=True)
    assert await gateway.cancel(asked) == Approved(waits.transaction_id)


async def test_money_goes_back_once_for_each_key(stripe, gateway):
    paid = await gateway.charge(asked := charge())
    refund = Refund(str(uuid4()), asked.key, paid.transaction_id, Decimal("10.00"), "EUR")
    assert await gateway.find_refund(refund) is None
    first = await gateway.refund(refund)
    assert isinstance(first, Refunded)
    assert await gateway.refund(refund) == first
    assert await gateway.find_refund(refund) == first
    other = replace(refund, key=str(uuid4()))
    assert await gateway.find_refund(other) is None
    assert await gateway.refund(other) != first
    listed = stripe.call("GET", "/v1/refunds", payment_intent=paid.transaction_id)["data"]
    assert [one["amount"] for one in listed] == [1000, 1000]


async def test_a_refund_that_ended_in_a_fault_is_looked_for_before_it_is_made_again(
    stripe, gateway
):
    paid = await gateway.charge(asked := charge())
    refund = Refund(str(uuid4()), asked.key, paid.transaction_id, Decimal("10.00"), "EUR")
    stripe.faults.append(Fault("/refunds"))
    with pytest.raises(GatewayUnavailable, match="HTTP 500"):
        await gateway.refund(refund)
    # Stripe did it all the same.
    stripe.call(
        "POST",
        "/v1/refunds",
        payment_intent=paid.transaction_id,
        amount="1000",
        **{"metadata[orderflow_refund]": refund.key},
    )
    assert await gateway.refund(refund) == await gateway.find_refund(refund)
    listed = stripe.call("GET", "/v1/refunds", payment_intent=paid.transaction_id)["data"]
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"status": "pending"}, RefundPending("re_1")),
        ({"status": "requires_action"}, RefundPending("re_1")),
        ({"status": "failed", "failure_reason": "lost_or_stolen_card"}, "lost_or_stolen_card"),
        ({"status": "canceled"}, "canceled"),
    ],
    ids=["pending", "requires_action", "failed", "canceled"],
)
async def test_refunds_may_take_their_time_and_may_fail(stripe, gateway, status, outcome):
    stripe.faults.append(Fault("/refunds", 200, {"object": "refund", "id": "re_1"} | status))
    refund = Refund(str(uuid4()), str(uuid4()), "pi_1", Decimal("10.00"), "EUR")
    expected = Declined(outcome) if isinstance(outcome, str) else outcome
    assert await gateway.refund(refund) == expected


@pytest.mark.parametrize(
    ("code", "param"), [("charge_already_refunded", None), ("amount_too_large", "amount")]
)
async def test_what_cannot_go_back_is_an_outcome(stripe, gateway, code, param):
    stripe.faults.append(Fault("/refunds", 400, error("invalid_request_error", code, param)))
    refund = Refund(str(uuid4()), str(uuid4()), "pi_1", Decimal("10.00"), "EUR")
    assert await gateway.refund(refund) == Declined(code)


CHARGES = {
    "object": "list",
    "url": "/v1/charges",
    "has_more": True,
    "data": [
        {
            "id": "ch_1",
            "object": "charge",
            "amount": 6800,
            "amount_captured": 6800,
            "created": 1767225600,
            "currency": "eur",
            "metadata": {"orderflow_payment": "payment-1"},
            "payment_intent": "pi_1",
            "status": "succeeded",
        },
        {
            "id": "ch_2",
            "object": "charge",
            "amount": 500,
            "amount_captured": 500,
            "created": 1767225601,
            "currency": "jpy",
            "metadata": {},
            "payment_intent": None,
            "status": "succeeded",
        },
        {
            "id": "ch_3",
            "object": "charge",
            "amount": 1,
            "amount_captured": 0,
            "created": 1767225602,
            "currency": "eur",
            "metadata": {},
            "payment_intent": "pi_3",
            "status": "failed",
        },
    ],
}
REFUNDS = {
    "object": "list",
    "url": "/v1/refunds",
    "has_more": False,
    "data": [
        {
            "id": "re_1",
            "object": "refund",
            "amount": 1000,
            "created": 1767225603,
            "currency": "eur",
            "metadata": {"orderflow_refund": "refund-1"},
            "payment_intent": "pi_1",
            "charge": "ch_1",
            "status": "succeeded",
        },
    ],
}


async def test_the_books_tell_of_money_that_moved(stripe, gateway):
    since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    stripe.faults += [Fault("/charges", 200, CHARGES), Fault("/refunds", 200, REFUNDS)]
    page = await gateway.entries(EntryKind.CHARGE, since, until)
    assert [(e.id, e.key, e.amount, e.currency) for e in page.entries] == [
        ("pi_1", "payment-1", Decimal(68), "EUR"),
        ("ch_2", None, Decimal(500), "JPY"),
    ]
    assert (page.after, page.entries[0].at) == ("ch_3", since)
    page = await gateway.entries(EntryKind.REFUND, since, until)
    [entry] = page.entries
    assert (entry.id, entry.charge_id, entry.key, entry.amount, page.after) == (
        "re_1",
        "pi_1",
        "refund-1",
        Decimal(10),
        None,
    )


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [
        ("19.99", "EUR", 1999),
        ("19.90", "HUF", 1990),
        ("500.00", "JPY", 500),
        ("5.12", "KWD", 5120),
        ("5.00", "ISK", 500),
        ("5.00", "UGX", 500),
        ("9999999999.99", "USD", 999999999999),
    ],
)
def test_amounts_are_whole_numbers_of_the_smallest_unit(amount, currency, units):
    assert to_minor_units(Decimal(amount), currency) == units
    assert from_minor_units(units, currency) == Decimal(amount)


@pytest.mark.parametrize("currency", ["JPY", "ISK", "UGX"])
def test_a_fraction_of_a_currency_without_is_refused(currency):
    with pytest.raises(GatewayRefused, match=f"5.50 {currency} is a fraction"):
        to_minor_units(Decimal("5.50"), currency)


# From the checkout to the customer who acts


@pytest.fixture
def settings(settings: Settings, stripe: Stripe) -> Settings:
    return at_stripe(settings, stripe)


async def status(sql: Any) -> tuple[str, str, Any]:
    row = await sql.fetchrow(
        """SELECT o.status, p.status AS payment_status, p.client_secret
           FROM orders o JOIN payments p ON p.order_id = o.id"""
    )
    return tuple(row)


async def let_it_rest(sql: Any) -> None:
    await sql.execute("UPDATE payments SET updated_at = now() - interval '6 min'")


async def test_an_order_is_paid_by_stripe(resources, place, stripe, sql):
    receipt = await place(paymentToken=VISA)
    result = await life.charge(resources, receipt)
    [intent] = stripe.intents(receipt.payment_id)
    assert result == {"success": True, "transactionId": intent["id"]}
    assert await status(sql) == ("confirmed", "completed", None)


async def test_a_job_that_has_to_wait_ends_and_leaves_its_order_open(resources, place, stripe, sql):
    receipt = await place(paymentToken=stripe.card(CAREFUL))
    result = await life.charge(resources, receipt)
    [intent] = stripe.intents(receipt.payment_id)
    waits = {"success": False, "transactionId": intent["id"], "reason": "requires_action"}
    assert result == waits
    assert await status(sql) == ("processing", "requires_action", intent["client_secret"])
    told = [
        order_confirmation_job(str(receipt.order_id), "user-1"),
        payment_failed_job(str(receipt.order_id), "user-1", ""),
    ]
    assert await resources.queues.states(told) == [JobState.MISSING] * 2

    asked = len(stripe.asked)
    assert await life.charge(resources, receipt) == waits, "a second delivery"
    assert await run(resources) == Counts(unsettled=1), "nor is its job put back"
    assert len(stripe.asked) == asked


@pytest.mark.parametrize(("success", "order"), [(True, "confirmed"), (False, "cancelled")])
async def test_where_an_event_was_lost_the_reconciler_asks_in_time(
    resources, place, stripe, sql, success, order
):
    receipt = await place(paymentToken=stripe.card(CAREFUL))
    await life.charge(resources, receipt)
    await let_it_rest(sql)
    assert await run(resources) == Counts(unsettled=1), "nothing is new"
    [intent] = stripe.intents(receipt.payment_id)
    stripe.authenticate(intent, success=success)
    assert await run(resources) == Counts(unsettled=1), "it rests again"

    await let_it_rest(sql)
    assert await run_over_rested(resources, sql) == Counts(unsettled=1, results_taken=1)
    assert (await status(sql))[::2] == (order, None)


async def test_an_order_that_nobody_pays_is_called_off_at_stripe_before_it_is_cancelled(
    resources, place, stripe, sql
):
    receipt = await place(paymentToken=stripe.card(CAREFUL))
    await life.charge(resources, receipt)
    await sql.execute("UPDATE orders SET created_at = now() - interval '2 h'")
    rules = Rules(order_ttl=timedelta(hours=1))
    await let_it_rest(sql)
    stripe.faults.append(Fault("/cancel", 503))
    assert (await run(resources, rules=rules)).orders_expired == 0
    asked = len(stripe.asked)
    assert await run(resources, rules=rules) == Counts(unsettled=1)
    assert len(stripe.asked) == asked, "it rests again"
    await let_it_rest(sql)
    assert await run_over_rested(resources, sql, rules) == Counts(unsettled=1, orders_expired=1)
    [intent] = stripe.intents(receipt.payment_id)
    assert intent["status"] == "canceled"
    assert await status(sql) == ("cancelled", "failed", None)
    assert await sql.fetchval("SELECT decline_reason FROM payments") == "expired"


async def test_what_stripe_refuses_fails_at_once(resources, place, stripe):
    receipt = await place(paymentToken=VISA)
    refusal = error("invalid_request_error", "parameter_invalid_string", "currency")
    stripe.faults.append(Fault("/payment_intents", 400, refusal))
    with pytest.raises(UnrecoverableError, match="parameter_invalid_string"):
        await life.charge(resources, receipt)
