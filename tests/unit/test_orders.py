"""The legal ways of orders and payments."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orderflow.orders import (
    OPEN_PAYMENT,
    ORDER_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    Item,
    OrderStatus,
    PaymentStatus,
    may_become_order,
    may_become_payment,
)


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
    assert may_become_order(OrderStatus.DELIVERED) == ("shipped",)


def test_only_an_open_payment_may_get_an_outcome():
    assert may_become_payment(PaymentStatus.COMPLETED) == tuple(sorted(OPEN_PAYMENT))
    assert may_become_payment(PaymentStatus.FAILED) == tuple(sorted(OPEN_PAYMENT))
    assert may_become_payment(PaymentStatus.REFUNDED) == ("completed",)


def test_a_line_costs_its_pieces():
    assert Item("tea", "Tea", 3, Decimal("8.90")).total == Decimal("26.70")
