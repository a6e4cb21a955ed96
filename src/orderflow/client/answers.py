"""What the API answers, as values. Amounts are in the order's currency, times in UTC.

A newer shop may say more than this client knows: fields that it does not know are left out, and a
status that it does not know is kept as text, so that a deploy of the shop breaks nobody.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from orderflow.contract import PaymentMethod
from orderflow.orders import OrderStatus, PaymentStatus, RefundCause, RefundStatus, Source

E = TypeVar("E", bound=StrEnum)

#: One of the words of an enum, or a newer one.
Known = Annotated[E | str, Field(union_mode="left_to_right")]


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True
    )


class Receipt(_Answer):
    """What a checkout is answered with: the order is kept and will come to its end.

    `replayed` says that an earlier request with the same idempotency key had placed it.
    """

    order_id: UUID
    payment_id: UUID
    status: Known[OrderStatus]
    total: Decimal
    currency: str
    replayed: bool = False


class OrderItem(_Answer):
    """One line of an order: the product as it was named and priced at checkout."""

    sku: str
    name: str
    quantity: int
    unit_price: Decimal
    total: Decimal


class OrderPayment(_Answer):
    """How an order is paid, and how far that is.

    `client_secret` is there while the payment waits for its customer: what the gateway's script in
    the browser goes on with. Who has it may pay, so it is not shown where a payment is printed.
    """

    payment_id: UUID
    method: Known[PaymentMethod]
    status: Known[PaymentStatus]
    decline_reason: str | None
    client_secret: str | None = Field(default=None, repr=False)


class OrderContact(_Answer):
    """Where the customer is told. An order of another producer may have none."""

    email: str | None = Field(repr=False)
    phone: str | None = Field(repr=False)


class Address(_Answer):
    """Where an order goes. `country` is two letters of ISO 3166-1, as `DE`."""

    name: str = Field(repr=False)
    line1: str = Field(repr=False)
    line2: str | None = Field(default=None, repr=False)
    postal_code: str = Field(repr=False)
    city: str
    region: str | None = None
    country: str


class Shipment(_Answer):
    """How an order was sent, and when it came."""

    carrier: str
    tracking_number: str
    shipped_at: datetime
    delivered_at: datetime | None


class OrderRefund(_Answer):
    """Money that is given back of an order, or was."""

    refund_id: UUID
    cause: Known[RefundCause]
    amount: Decimal
    currency: str
    status: Known[RefundStatus]
    decline_reason: str | None
    created_at: datetime
    updated_at: datetime


class Order(_Answer):
    """An order. `user_id` and `source` are there for admins only.

    `shipment` and `refunds` are told of one order that is asked for, not of those in a list.
    """

    order_id: UUID
    status: Known[OrderStatus]
    total: Decimal
    currency: str
    items: tuple[OrderItem, ...]
    payment: OrderPayment
    contact: OrderContact
    shipping_address: Address | None
    created_at: datetime
    updated_at: datetime
    user_id: str | None = None
    source: Known[Source] | None = None
    shipment: Shipment | None = None
    refunds: tuple[OrderRefund, ...] = ()


class OrderPage(_Answer):
    """A page of orders, newest first, and the cursor of the next one."""

    orders: tuple[Order, ...]
    next_cursor: str | None


class LivePayment(_Answer):
    """How far the payment of an order is, and why it failed if it did."""

    status: Known[PaymentStatus]
    decline_reason: str | None


class LiveRefund(_Answer):
    """Money that is given back of an order, or was."""

    refund_id: UUID
    amount: Decimal
    currency: str
    status: Known[RefundStatus]
    decline_reason: str | None


class LiveStatus(_Answer):
    """How an order is since a time; its shipment and refunds are always as they are now.

    `event_id` is what one goes on from who was away.
    """

    event_id: str
    order_id: UUID
    status: Known[OrderStatus]
    at: datetime
    payment: LivePayment
    shipment: Shipment | None
    refunds: tuple[LiveRefund, ...]
