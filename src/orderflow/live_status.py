"""How an order goes, as one who follows it is told: all of it is derived from the order's rows.

An order never goes backwards, so how far it is makes a position that only grows. It is the id of
an event: who was away says the last one they saw, and is told what came after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from orderflow.contract import JobName
from orderflow.orders import OrderStatus, PaymentStatus, RefundStatus, Row, Shipment

#: Both are declared in the order of their ways.
_ORDER_STEPS = {status: step for step, status in enumerate(OrderStatus)}
_PAYMENT_STEPS = {status: step for step, status in enumerate(PaymentStatus)}
_ORDER_STATUSES = tuple(OrderStatus)
_PAYMENT_STATUSES = tuple(PaymentStatus)

_PASSED_EVENTS = {
    JobName.ORDER_SHIPPED.value: OrderStatus.SHIPPED,
    JobName.ORDER_DELIVERED.value: OrderStatus.DELIVERED,
}
#: After these nothing is left to be told, but for refunds that are under way.
_ENDS = frozenset({OrderStatus.DELIVERED, OrderStatus.CANCELLED})
#: A number of refunds that no order comes near, and every reader of numbers takes.
_DIGITS = 9


class Position(NamedTuple):
    """How far an order is: its status, its payment's, and what became of its refunds.

    Refunds count once when they are asked for, and once when they have their outcome.
    """

    order: int
    payment: int
    refunds: int

    @classmethod
    def of(cls, status: OrderStatus, payment: PaymentStatus, refunds: int = 0) -> Position:
        """Return the position of these statuses."""
        return cls(_ORDER_STEPS[status], _PAYMENT_STEPS[payment], refunds)

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Read what `str` made; None for anything else."""
        status, _, rest = text.partition(".")
        payment, _, refunds = rest.partition(".")
        try:
            read = cls.of(OrderStatus(status), PaymentStatus(payment), int(refunds[:_DIGITS]))
        except ValueError:
            return None
        # Numbers are read leniently: what does not come out the same was not made here.
        return read if read.refunds >= 0 and str(read) == text else None

    def is_passed_by(self, other: Position) -> bool:
        """Say whether an order that is at `other` may have been here."""
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))

    def __str__(self) -> str:
        return f"{_ORDER_STATUSES[self.order]}.{_PAYMENT_STATUSES[self.payment]}.{self.refunds}"


@dataclass(frozen=True, slots=True)
class LivePayment:
    """How far the payment of an order is, and why it failed if it did."""

    status: PaymentStatus
    decline_reason: str | None


@dataclass(frozen=True, slots=True)
class LiveRefund:
    """Money that is given back of an order, or was."""

    refund_id: UUID
    amount: Decimal
    currency: str
    status: RefundStatus
    decline_reason: str | None


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """How an order is since a time; its shipment and refunds are always as they are now."""

    order_id: UUID
    status: OrderStatus
    at: datetime
    payment: LivePayment
    shipment: Shipment | None
    refunds: Sequence[LiveRefund]


class Progress:
    """How far an order has come, read from a row of `live_orders`."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._status = OrderStatus(row["status"])
        self._payment = PaymentStatus(row["payment_status"])
        self.position = Position.of(self._status, self._payment, row["refund_steps"])

    @property
    def user_id(self) -> str | None:
        """Whose order it is."""
        user_id: str | None = self._row["user_id"]
        return user_id

    @property
    def order_id(self) -> UUID:
        """Which order it is."""
        order_id: UUID = self._row["id"]
        return order_id

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""
        ended = self._status in _ENDS or self._payment is PaymentStatus.REFUNDED
        return ended and not self._row["refunds_open"]

    def since(self, seen: Position | None) -> Iterator[tuple[Position, LiveStatus]]:
        """Give what came after `seen`, the oldest first; with None only how the order is now."""
        if seen == self.position:
            return
        if seen is not None:
            for status, payment, at in self._passed():
                position = Position.of(status, payment)
                if position > seen and (status, payment) != (self._status, self._payment):
                    yield position, self._live(status, payment, at)
        yield self.position, self._live(self._status, self._payment, self._at)

    def _passed(self) -> Iterator[tuple[OrderStatus, PaymentStatus, datetime]]:
        """Give the statuses that the order came by, as far as its rows tell when."""
        row, completed = self._row, PaymentStatus.COMPLETED
        yield OrderStatus.PENDING, PaymentStatus.PENDING, row["created_at"]
        if self._payment is completed:
            yield OrderStatus.CONFIRMED, completed, row["payment_updated_at"]
        for kind, status in _PASSED_EVENTS.items():
            if kind in self._events:
                yield status, completed, _time(self._events[kind]["at"])

    @property
    def _at(self) -> datetime:
        """Since when the order is as it is now."""
        row = self._row
        known: list[datetime | None] = [
            row["created_at"],
            row["payment_updated_at"],
            row["refunds_updated_at"],
            *(_time(event["at"]) for event in self._events.values()),
        ]
        return max(at for at in known if at is not None)

    @property
    def _events(self) -> Mapping[str, Mapping[str, Any]]:
        return self._row["events"] or {}

    def _live(self, status: OrderStatus, payment: PaymentStatus, at: datetime) -> LiveStatus:
        reason = self._row["decline_reason"] if payment is PaymentStatus.FAILED else None
        return LiveStatus(
            order_id=self.order_id,
            status=status,
            at=at,
            payment=LivePayment(payment, reason),
            shipment=self._shipment(),
            refunds=[_refund(refund) for refund in self._row["refunds"] or ()],
        )

    def _shipment(self) -> Shipment | None:
        shipped = self._events.get(JobName.ORDER_SHIPPED.value)
        if shipped is None:
            return None
        delivered = self._events.get(JobName.ORDER_DELIVERED.value)
        return Shipment(
            carrier=shipped["carrier"],
            tracking_number=shipped["trackingNumber"],
            shipped_at=_time(shipped["at"]),
            delivered_at=_time(delivered["at"]) if delivered else None,
        )


def _refund(refund: Mapping[str, Any]) -> LiveRefund:
    return LiveRefund(
        refund_id=UUID(refund["id"]),
        amount=Decimal(refund["amount"]),
        currency=refund["currency"],
        status=RefundStatus(refund["status"]),
        decline_reason=refund["decline_reason"],
    )


def _time(text: str) -> datetime:
    """Read a time as PostgreSQL writes it in JSON."""
    return datetime.fromisoformat(text)
