"""The legal ways of orders and payments."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from orderflow.contract import PaymentMethod
from orderflow.orders import (
    CANCELLED,
    EXPIRED,
    OPEN_ORDER,
    OPEN_PAYMENT,
    OPEN_REFUND,
    ORDER_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    Event,
    Item,
    Order,
    OrderRefund,
    OrderStatus,
    Payment,
    PaymentStatus,
    RefundCause,
    RefundStatus,
    Source,
    may_become_order,
    may_become_payment,
    next_statuses,
)

THEN, NOW = datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 2, 1, 12, tzinfo=UTC)
ORDER_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8058")
PAYMENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
REFUND_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8056")


def test_the_names_are_those_that_the_tables_hold():
    assert list(OrderStatus) == [
        *("pending", "processing", "confirmed", "shipped", "delivered", "cancelled")
    ]
    assert list(PaymentStatus) == [
        *("pending", "processing", "requires_action", "completed", "failed", "refunded")
    ]
    assert list(RefundStatus) == ["pending", "processing", "completed", "failed", "void"]
    assert list(RefundCause) == ["cancel", "request", "stray"]
    assert list(Source) == ["checkout", "external"]
    assert (EXPIRED, CANCELLED) == ("expired", "order_cancelled")


def test_what_is_open():
    assert {"pending", "processing"} == OPEN_ORDER
    assert {"pending", "processing", "requires_action"} == OPEN_PAYMENT
    assert {"pending", "processing"} == OPEN_REFUND


def test_where_an_order_may_go_is_told_in_words():
    assert next_statuses(OrderStatus.CONFIRMED) == ["cancelled", "shipped"]
    assert next_statuses(OrderStatus.DELIVERED) == ["nowhere"]


@pytest.mark.parametrize(
    ("transitions", "statuses"),
    [(ORDER_TRANSITIONS, OrderStatus), (PAYMENT_TRANSITIONS, PaymentStatus)],
)
def test_every_status_has_its_ways_and_none_leads_back(transitions, statuses):
    assert set(transitions) == set(statuses)

    def reachable(status):
        return {status}.union(*(reachable(target) for target in transitions[status]))

    for status in statuses:
        assert all(status not in reachable(target) for target in transitions[status])


def test_an_order_may_be_confirmed_only_before_its_end():
    assert may_become_order(OrderStatus.CONFIRMED) == ("pending", "processing")
    assert may_become_order(OrderStatus.CANCELLED) == ("confirmed", "pending", "processing")
    assert may_become_order(OrderStatus.PROCESSING) == ("pending",)
    assert may_become_order(OrderStatus.SHIPPED) == ("confirmed",)
    assert may_become_order(OrderStatus.DELIVERED) == ("shipped",)


def test_only_an_open_payment_may_get_an_outcome():
    assert may_become_payment(PaymentStatus.COMPLETED) == tuple(sorted(OPEN_PAYMENT))
    assert may_become_payment(PaymentStatus.FAILED) == tuple(sorted(OPEN_PAYMENT))
    assert may_become_payment(PaymentStatus.REFUNDED) == ("completed",)
    assert may_become_payment(PaymentStatus.PROCESSING) == ("pending",)
    assert may_become_payment(PaymentStatus.REQUIRES_ACTION) == ("processing",)


def test_a_line_costs_its_pieces():
    assert Item("tea", "Tea", 3, Decimal("8.90")).total == Decimal("26.70")


def test_a_refund_is_read_from_its_row():
    row = {
        "id": REFUND_ID,
        "cause": "request",
        "amount": Decimal("1.50"),
        "currency": "EUR",
        "status": "failed",
        "decline_reason": "too_late",
        "created_at": THEN,
        "updated_at": NOW,
    }
    refund = OrderRefund.from_row(row)
    assert refund == OrderRefund(
        *(REFUND_ID, RefundCause.REQUEST, Decimal("1.50"), "EUR"),
        *(RefundStatus.FAILED, "too_late", THEN, NOW),
    )
    assert isinstance(refund.cause, RefundCause)
    assert isinstance(refund.status, RefundStatus)


def test_an_event_is_read_from_its_row():
    row = {
        "event_id": ORDER_ID,
        "event_at": THEN,
        "event_details": {"carrier": "post"},
        "refund_id": REFUND_ID,
        "refund_amount": Decimal("1.50"),
    }
    expected = Event(ORDER_ID, THEN, {"carrier": "post"}, REFUND_ID, Decimal("1.50"))
    assert Event.from_row(row) == expected


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ({}, (str(PAYMENT_ID), str(ORDER_ID))),
        ({"external_id": "p-1", "order_external_id": "o-1"}, ("p-1", "o-1")),
    ],
)
def test_a_payment_is_known_to_others_by_their_id_or_else_by_its_own(names, keys):
    row = {
        "id": PAYMENT_ID,
        "external_id": None,
        "order_id": ORDER_ID,
        "order_external_id": None,
        "user_id": "user-1",
        "method": "wallet",
        "token": "tok_1",
        "amount": Decimal("26.70"),
        "currency": "EUR",
        "status": "requires_action",
        "transaction_id": "ch_1",
        "decline_reason": "too_poor",
        "notified": True,
    }
    payment = Payment.from_row(row | names)
    assert payment == Payment(
        *(PAYMENT_ID, keys[0], ORDER_ID, keys[1], "user-1", PaymentMethod.WALLET, "tok_1"),
        *(Decimal("26.70"), "EUR", PaymentStatus.REQUIRES_ACTION, "ch_1", "too_poor", True),
    )
    assert isinstance(payment.method, PaymentMethod)
    assert isinstance(payment.status, PaymentStatus)


@pytest.mark.parametrize(("kept", "languages"), [(["de", "en"], ("de", "en")), (None, ())])
def test_an_order_is_read_from_its_row(kept, languages):
    item = {"sku": "tea", "name": "Tea", "quantity": 3, "unit_price": "8.90"}
    row = {
        "id": ORDER_ID,
        "user_id": "user-1",
        "source": "external",
        "status": "shipped",
        "total": Decimal("26.70"),
        "currency": "EUR",
        "items": [item],
        "email": "ada@shop.example",
        "phone": "+491701234567",
        "shipping_address": {"city": "Berlin"},
        "payment_id": PAYMENT_ID,
        "payment_method": "wallet",
        "payment_status": "completed",
        "decline_reason": "too_poor",
        "created_at": THEN,
        "updated_at": NOW,
        "languages": kept,
    }
    order = Order.from_row(row)
    assert order == Order(
        *(ORDER_ID, "user-1", Source.EXTERNAL, OrderStatus.SHIPPED, Decimal("26.70"), "EUR"),
        (Item("tea", "Tea", 3, Decimal("8.90")),),
        *("ada@shop.example", "+491701234567", {"city": "Berlin"}),
        *(PAYMENT_ID, PaymentMethod.WALLET, PaymentStatus.COMPLETED, "too_poor", THEN, NOW),
        languages,
    )
    assert isinstance(order.items[0].unit_price, Decimal)
