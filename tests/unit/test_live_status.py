"""What an order's rows tell of its way, and the ids that stand for how far it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.live_status import Position, Progress
from orderflow.orders import (
    ORDER_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    OrderStatus,
    PaymentStatus,
)

PLACED = datetime(2026, 1, 31, 12, tzinfo=UTC)
POSITIONS = st.builds(
    Position.of,
    st.sampled_from(OrderStatus),
    st.sampled_from(PaymentStatus),
    st.integers(0, 999_999_999),
)


def after(minutes: int) -> datetime:
    return PLACED + timedelta(minutes=minutes)


def row(status: str, payment: str, **more: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "user_id": "user-1",
        "status": status,
        "created_at": PLACED,
        "payment_status": payment,
        "decline_reason": None,
        "payment_updated_at": after(1),
        "events": None,
        "refunds": None,
        "refund_steps": 0,
        "refunds_open": 0,
        "refunds_updated_at": None,
    } | more


def event(minutes: int, **details: str) -> dict[str, str]:
    return {"at": after(minutes).isoformat(), **details}


SENT = {"order-shipped": event(2, carrier="Parcels", trackingNumber="1")}


def told(progress: Progress, seen: str | None) -> list[tuple[str, datetime]]:
    position = None if seen is None else Position.parse(seen)
    return [(str(at), live.at) for at, live in progress.since(position)]


@given(POSITIONS)
def test_an_id_is_read_as_it_was_written(position: Position) -> None:
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "confirmed", "confirmed.completed", "confirmed.completed.", "paid.completed.0"),
        *("confirmed.completed.00", "confirmed.completed.-1", "confirmed.completed.1.1"),
        *("confirmed.completed.1 ", "confirmed.completed.٣", f"confirmed.completed.{10**9}"),
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert Position.parse(text) is None


def test_no_step_goes_back() -> None:
    """What the statuses may become comes after them: so an id that is passed stays passed."""
    for status, following in ORDER_TRANSITIONS.items():
        for later in following:
            assert Position.of(status, PaymentStatus.PENDING) < Position.of(
                later, PaymentStatus.PENDING
            )
    for paid, following_it in PAYMENT_TRANSITIONS.items():
        for later_paid in following_it:
            assert Position.of(OrderStatus.PENDING, paid) < Position.of(
                OrderStatus.PENDING, later_paid
            )


def test_who_saw_nothing_is_told_how_it_is_now() -> None:
    assert told(Progress(row("shipped", "completed", events=SENT)), None) == [
        ("shipped.completed.0", after(2))
    ]


def test_who_was_away_is_told_what_came_meanwhile() -> None:
    events = SENT | {"order-delivered": event(3)}
    progress = Progress(row("delivered", "completed", events=events))
    way = [
        ("confirmed.completed.0", after(1)),
        ("shipped.completed.0", after(2)),
        ("delivered.completed.0", after(3)),
    ]
    for seen, left in (
        ("pending.pending.0", way),
        ("processing.requires_action.0", way),
        ("confirmed.completed.0", way[1:]),
        ("shipped.completed.0", way[2:]),
        ("delivered.completed.0", []),
    ):
        assert told(progress, seen) == left
    [_, (_, live)] = list(progress.since(Position.parse("confirmed.completed.0")))
    assert live.shipment is not None
    assert (live.shipment.carrier, live.shipment.delivered_at) == ("Parcels", after(3))


def test_a_refund_is_a_step_when_it_is_asked_for_and_when_it_is_made() -> None:
    refund = {
        "id": str(uuid4()),
        "amount": "5.00",
        "currency": "EUR",
        "status": "pending",
        "decline_reason": None,
    }
    asked = {"refund_steps": 1, "refunds_open": 1, "refunds_updated_at": after(4)}
    pending = Progress(row("cancelled", "completed", refunds=[refund], **asked))
    assert not pending.is_over
    assert told(pending, "confirmed.completed.0") == [("cancelled.completed.1", after(4))]

    made = asked | {"refund_steps": 2, "refunds_open": 0, "refunds_updated_at": after(5)}
    done = Progress(
        row("cancelled", "refunded", refunds=[refund | {"status": "completed"}], **made)
    )
    assert done.is_over
    assert told(done, "cancelled.completed.1") == [("cancelled.refunded.2", after(5))]
    [(_, live)] = done.since(None)
    assert [(r.status, f"{r.amount}") for r in live.refunds] == [("completed", "5.00")]


def test_a_reason_is_told_of_a_payment_that_failed_alone() -> None:
    progress = Progress(row("cancelled", "failed", decline_reason="card_declined"))
    [(_, live)] = progress.since(None)
    assert live.payment.decline_reason == "card_declined"


@pytest.mark.parametrize(
    ("status", "payment", "over"),
    [
        ("pending", "pending", False),
        ("processing", "requires_action", False),
        ("confirmed", "completed", False),
        ("confirmed", "refunded", True),
        ("shipped", "completed", False),
        ("delivered", "completed", True),
        ("cancelled", "failed", True),
    ],
)
def test_when_it_is_over(status: str, payment: str, over: bool) -> None:
    assert Progress(row(status, payment)).is_over is over


def test_an_id_that_an_order_cannot_have_had() -> None:
    now = Position.of(OrderStatus.CONFIRMED, PaymentStatus.COMPLETED)
    assert Position.of(OrderStatus.PENDING, PaymentStatus.PENDING).is_passed_by(now)
    assert now.is_passed_by(now)
    assert not Position.of(OrderStatus.SHIPPED, PaymentStatus.COMPLETED).is_passed_by(now)
    assert not Position.of(OrderStatus.CONFIRMED, PaymentStatus.COMPLETED, 1).is_passed_by(now)
