"""Checkout: a customer's wish becomes an order, its items and its payment in one commit.

The commit is the promise. The job that charges is added after it, if Redis answers in time; if
not, the reconciler adds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, EmailStr, Field, StringConstraints
from pydantic.alias_generators import to_camel
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.contract import PaymentMethod, payment_job
from orderflow.db import Database, Transaction
from orderflow.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    MixedCurrencies,
    OutOfStock,
    TotalTooLarge,
    UnknownProducts,
)
from orderflow.orders import Item, OrderStatus

log = structlog.get_logger(__name__)

MAX_TOTAL = Decimal("9999999999.99")

#: Text of a customer: PostgreSQL keeps no NUL, and no line of ours wants a control character.
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)
]
Sku = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class CheckoutItem(_Body):
    """What is bought, and how many of it. Prices come from the shop, never from the client."""

    sku: Sku
    quantity: int = Field(ge=1, le=1_000, strict=True)


class Contact(_Body):
    """Where the customer is told how the order went."""

    email: EmailStr
    phone: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")] | None = Field(
        default=None, description="E.164, as +4915112345678"
    )


class Address(_Body):
    """Where the order goes."""

    name: Line
    line1: Line
    line2: Line | None = None
    postal_code: Annotated[
        str, StringConstraints(min_length=1, max_length=20, pattern=NO_CONTROL_CHARACTERS)
    ]
    city: Line
    region: Line | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(
        description="ISO 3166-1 alpha-2"
    )


class Checkout(_Body):
    """The body of POST /checkout."""

    items: list[CheckoutItem] = Field(min_length=1, max_length=100)
    payment_method: PaymentMethod
    payment_token: (
        Annotated[
            str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL_CHARACTERS)
        ]
        | None
    ) = Field(default=None, repr=False)
    contact: Contact
    shipping_address: Address | None = None

    def quantities(self) -> dict[str, int]:
        """Return how many of each sku are bought, in the order they were named first."""
        quantities: dict[str, int] = {}
        for item in self.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        return quantities


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key for one request: a second request with it makes no second order."""

    key: str
    ttl_s: int

    def lock(self, user_id: str) -> int:
        """Return the number of the advisory lock that stands for this user's key."""
        digest = hashlib.blake2b(f"{user_id}\0{self.key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, signed=True)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a checkout is answered with."""

    order_id: UUID
    payment_id: UUID
    status: OrderStatus
    total: Decimal
    currency: str
    replayed: bool = False

    def to_json(self) -> dict[str, str]:
        """Return the answer's body."""
        return {
            "orderId": str(self.order_id),
            "paymentId": str(self.payment_id),
            "status": self.status.value,
            "total": str(self.total),
            "currency": self.currency,
        }

    @classmethod
    def from_json(cls, answer: Mapping[str, str], *, replayed: bool) -> Receipt:
        """Read an answer that was kept under an idempotency key."""
        return cls(
            order_id=UUID(answer["orderId"]),
            payment_id=UUID(answer["paymentId"]),
            status=OrderStatus(answer["status"]),
            total=Decimal(answer["total"]),
            currency=answer["currency"],
            replayed=replayed,
        )


async def place_order(
    checkout: Checkout,
    user_id: str,
    key: IdempotencyKey | None,
    *,
    db: Database,
    queues: JobQueues,
) -> Receipt:
    """Write the order and queue its payment; or replay the receipt of the same request.

    Raises UnknownProducts, MixedCurrencies, TotalTooLarge, OutOfStock, IdempotencyKeyReused,
    IdempotencyKeyInFlight or DatabaseUnavailable, and then nothing is written.
    """
    async with db.transaction() as transaction:
        if key is not None:
            earlier = await _replay(transaction, checkout, user_id, key)
            if earlier is not None:
                return earlier
        receipt = await _write(transaction, checkout, user_id)
        if key is not None:
            await _keep(transaction, checkout, user_id, key, receipt)
    log.info(
        "order placed",
        order_id=str(receipt.order_id),
        payment_id=str(receipt.payment_id),
        total=str(receipt.total),
        currency=receipt.currency,
    )
    await queues.offer(
        payment_job(
            str(receipt.payment_id),
            str(receipt.order_id),
            checkout.payment_method,
            receipt.total,
        )
    )
    return receipt


async def _replay(
    transaction: Transaction, checkout: Checkout, user_id: str, key: IdempotencyKey
) -> Receipt | None:
    locked = await transaction.fetchrow("lock_idempotency_key", key.lock(user_id))
    if locked is None or not locked["mine"]:
        raise IdempotencyKeyInFlight
    # A statement of its own: it must see what committed before the lock was ours.
    kept = await transaction.fetchrow("find_idempotency_key", user_id, key.key)
    if kept is None:
        return None
    if kept["fingerprint"] != _fingerprint(checkout):
        raise IdempotencyKeyReused
    return Receipt.from_json(kept["answer"], replayed=True)


async def _keep(
    transaction: Transaction,
    checkout: Checkout,
    user_id: str,
    key: IdempotencyKey,
    receipt: Receipt,
) -> None:
    kept = await transaction.fetchrow(
        "save_idempotency_key",
        user_id,
        key.key,
        _fingerprint(checkout),
        receipt.to_json(),
        key.ttl_s,
    )
    if kept is None:
        raise IdempotencyKeyInFlight


def _fingerprint(checkout: Checkout) -> bytes:
    """Return a digest of what was asked for: the same request, however its JSON was spelled."""
    canonical = json.dumps(checkout.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).digest()


async def _write(transaction: Transaction, checkout: Checkout, user_id: str) -> Receipt:
    quantities = checkout.quantities()
    items, currency, counted = await _price(transaction, quantities)
    total = sum((item.total for item in items), Decimal("0.00"))
    if total > MAX_TOTAL:
        raise TotalTooLarge(limit=MAX_TOTAL)
    await _take_stock(transaction, {sku: quantities[sku] for sku in counted})
    receipt = Receipt(uuid7(), uuid7(), OrderStatus.PENDING, total, currency)
    address = checkout.shipping_address
    await transaction.fetchrow(
        "insert_order",
        receipt.order_id,
        user_id,
        total,
        currency,
        checkout.contact.email,
        checkout.contact.phone,
        None if address is None else address.model_dump(by_alias=True),
        [item.sku for item in items],
        [item.name for item in items],
        [item.quantity for item in items],
        [item.unit_price for item in items],
        [item.sku in counted for item in items],
        receipt.payment_id,
        checkout.payment_method.value,
        checkout.payment_token,
    )
    return receipt


async def _price(
    transaction: Transaction, quantities: Mapping[str, int]
) -> tuple[Sequence[Item], str, frozenset[str]]:
    """Return the priced lines, their currency, and the skus whose stock is counted."""
    rows = await transaction.fetch("find_products", list(quantities))
    products: dict[str, Any] = {row["sku"]: row for row in rows}
    unknown = [sku for sku in quantities if sku not in products]
    if unknown:
        raise UnknownProducts(skus=unknown)
    currencies = sorted({row["currency"] for row in rows})
    if len(currencies) > 1:
        raise MixedCurrencies(currencies=currencies)
    items = [
        Item(sku, products[sku]["name"], quantity, products[sku]["price"])
        for sku, quantity in quantities.items()
    ]
    return items, currencies[0], frozenset(row["sku"] for row in rows if row["counted"])


async def _take_stock(transaction: Transaction, counted: Mapping[str, int]) -> None:
    if not counted:
        return
    rows = await transaction.fetch("take_stock", list(counted), list(counted.values()))
    taken = {row["sku"] for row in rows}
    for sku, quantity in counted.items():
        if sku not in taken:
            raise OutOfStock(sku=sku, quantity=quantity)
