"""Orders and payments: what they are, the statuses they go through, and the legal ways. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from orderflow.contract import PaymentMethod


class Row(Protocol):
    """A row of a query: its columns by name."""

    def __getitem__(self, column: str, /) -> Any:
        """Return the value of a column."""


class OrderStatus(StrEnum):
    """Where an order is on its way."""

    PENDING = "pending"
    PROCESSING = "processing"
    CONFIRMED = "confirmed"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class PaymentStatus(StrEnum):
    """Where a payment is.

    `processing` means that the gateway may have been asked, `requires_action` that it waits for the
    customer or the bank, and will tell.
    """

    PENDING = "pending"
    PROCESSING = "processing"
    REQUIRES_ACTION = "requires_action"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUNDED = "refunded"


class Source(StrEnum):
    """Who made an order: our checkout, or a job of a producer outside of orderflow."""

    CHECKOUT = "checkout"
    EXTERNAL = "external"


#: The reason of a payment that failed because its order outlived ORDER_TTL_S. A template knows it.
EXPIRED = "expired"

#: The reason of a payment that failed because its order was cancelled before it had an outcome.
CANCELLED = "order_cancelled"


class RefundStatus(StrEnum):
    """Where a refund is. `processing` means that the gateway may have been asked for it."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    VOID = "void"  # there was no charge to give back


class RefundCause(StrEnum):
    """Why money is given back."""

    CANCEL = "cancel"
    REQUEST = "request"  # an admin asked for it
    STRAY = "stray"  # nobody got anything for the charge


#: A refund in one of these has no outcome yet.
OPEN_REFUND = frozenset({RefundStatus.PENDING, RefundStatus.PROCESSING})

#: The statuses an order may go to from each status. It never goes backwards.
ORDER_TRANSITIONS: Mapping[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.PENDING: frozenset(
        {OrderStatus.PROCESSING, OrderStatus.CONFIRMED, OrderStatus.CANCELLED}
    ),
    OrderStatus.PROCESSING: frozenset({OrderStatus.CONFIRMED, OrderStatus.CANCELLED}),
    OrderStatus.CONFIRMED: frozenset({OrderStatus.SHIPPED, OrderStatus.CANCELLED}),
    OrderStatus.SHIPPED: frozenset({OrderStatus.DELIVERED}),
    OrderStatus.DELIVERED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}

#: The statuses a payment may go to from each status.
PAYMENT_TRANSITIONS: Mapping[PaymentStatus, frozenset[PaymentStatus]] = {
    PaymentStatus.PENDING: frozenset(
        {PaymentStatus.PROCESSING, PaymentStatus.COMPLETED, PaymentStatus.FAILED}
    ),
    PaymentStatus.PROCESSING: frozenset(
        {PaymentStatus.REQUIRES_ACTION, PaymentStatus.COMPLETED, PaymentStatus.FAILED}
    ),
    PaymentStatus.REQUIRES_ACTION: frozenset({PaymentStatus.COMPLETED, PaymentStatus.FAILED}),
    PaymentStatus.COMPLETED: frozenset({PaymentStatus.REFUNDED}),
    PaymentStatus.FAILED: frozenset(),
    PaymentStatus.REFUNDED: frozenset(),
}

#: An order in one of these waits for the outcome of its payment.
OPEN_ORDER = frozenset({OrderStatus.PENDING, OrderStatus.PROCESSING})

#: A payment in one of these has no outcome yet.
OPEN_PAYMENT = frozenset(
    {PaymentStatus.PENDING, PaymentStatus.PROCESSING, PaymentStatus.REQUIRES_ACTION}
)


def may_become_order(target: OrderStatus) -> tuple[str, ...]:
    """Return the statuses from which an order may go to `target`, for a guarded update."""
    return tuple(sorted(old for old, legal in ORDER_TRANSITIONS.items() if target in legal))


def may_become_payment(target: PaymentStatus) -> tuple[str, ...]:
    """Return the statuses from which a payment may go to `target`, for a guarded update."""
    return tuple(sorted(old for old, legal in PAYMENT_TRANSITIONS.items() if target in legal))


def next_statuses(status: OrderStatus) -> list[str]:
    """Return where an order may go from `status`, for a person to read."""
    return sorted(ORDER_TRANSITIONS[status]) or ["nowhere"]


@dataclass(frozen=True, slots=True)
class OrderRefund:
    """Money that is given back of an order, or was."""

    refund_id: UUID
    cause: RefundCause
    amount: Decimal
    currency: str
    status: RefundStatus
    decline_reason: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> OrderRefund:
        """Build a refund from its row."""
        return cls(
            refund_id=row["id"],
            cause=RefundCause(row["cause"]),
            amount=row["amount"],
            currency=row["currency"],
            status=RefundStatus(row["status"]),
            decline_reason=row["decline_reason"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


@dataclass(frozen=True, slots=True)
class Shipment:
    """How an order was sent, and when it came."""

    carrier: str
    tracking_number: str
    shipped_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """What a customer is told of beside how the payment ended: mails are made from it."""

    id: UUID
    at: datetime
    details: Mapping[str, Any]
    refund_id: UUID | None
    refund_amount: Decimal | None

    @classmethod
    def from_row(cls, row: Row) -> Event:
        """Build an event from a row of `claim_event`."""
        return cls(
            id=row["event_id"],
            at=row["event_at"],
            details=row["event_details"],
            refund_id=row["refund_id"],
            refund_amount=row["refund_amount"],
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an order: the product as it was named and priced at checkout."""

    sku: str
    name: str
    quantity: int
    unit_price: Decimal

    @property
    def total(self) -> Decimal:
        """The price of the whole line."""
        return self.unit_price * self.quantity


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment and the parts of its order that charging needs.

    `key` is the id that producers know it by, and the gateway: the same over every attempt and
    every worker.
    """

    id: UUID
    key: str
    order_id: UUID
    order_key: str
    user_id: str | None
    method: PaymentMethod
    token: str | None
    amount: Decimal
    currency: str
    status: PaymentStatus
    transaction_id: str | None
    decline_reason: str | None
    notified: bool

    @classmethod
    def from_row(cls, row: Row) -> Payment:
        """Build a payment from a row of the `find_payment` or `begin_charge` query."""
        return cls(
            id=row["id"],
            key=row["external_id"] or str(row["id"]),
            order_id=row["order_id"],
            order_key=row["order_external_id"] or str(row["order_id"]),
            user_id=row["user_id"],
            method=PaymentMethod(row["method"]),
            token=row["token"],
            amount=row["amount"],
            currency=row["currency"],
            status=PaymentStatus(row["status"]),
            transaction_id=row["transaction_id"],
            decline_reason=row["decline_reason"],
            notified=row["notified"],
        )


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its items and payment, as its owner may see it."""

    id: UUID
    user_id: str | None
    source: Source
    status: OrderStatus
    total: Decimal
    currency: str
    items: tuple[Item, ...]
    email: str | None
    phone: str | None
    shipping_address: Mapping[str, Any] | None
    payment_id: UUID
    payment_method: PaymentMethod
    payment_status: PaymentStatus
    decline_reason: str | None
    created_at: datetime
    updated_at: datetime
    #: In which the customer likes to be written to, the most wished first.
    languages: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Row) -> Order:
        """Build an order from a row of `order_details`."""
        return cls(
            id=row["id"],
            user_id=row["user_id"],
            source=Source(row["source"]),
            status=OrderStatus(row["status"]),
            total=row["total"],
            currency=row["currency"],
            items=tuple(
                Item(
                    sku=item["sku"],
                    name=item["name"],
                    quantity=item["quantity"],
                    unit_price=Decimal(item["unit_price"]),
                )
                for item in row["items"]
            ),
            email=row["email"],
            phone=row["phone"],
            shipping_address=row["shipping_address"],
            payment_id=row["payment_id"],
            payment_method=PaymentMethod(row["payment_method"]),
            payment_status=PaymentStatus(row["payment_status"]),
            decline_reason=row["decline_reason"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            languages=tuple(row["languages"] or ()),
        )
