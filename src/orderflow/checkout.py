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
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.checkout_body import Checkout
from orderflow.contract import payment_job
from orderflow.db import Database
from orderflow.errors import (
    DatabaseRefused,
    IdempotencyKeyReused,
    MixedCurrencies,
    OutOfStock,
    TotalTooLarge,
    UnknownProducts,
)
from orderflow.metrics import MONEY, ORDERS
from orderflow.orders import OrderStatus, Row

log = structlog.get_logger(__name__)

MAX_TOTAL = Decimal("9999999999.99")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key for one request: a second request with it makes no second order."""

    key: str
    ttl_s: int


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
    languages: Sequence[str] = (),
) -> Receipt:
    """Write the order and queue its payment; or replay the receipt of the same request.

    The customer is written to in the language of the contact, or else the first of `languages`
    that the shop has.

    Of two requests with one key at the same time the second waits for the first. Raises
    UnknownProducts, MixedCurrencies, TotalTooLarge, OutOfStock, IdempotencyKeyReused or
    DatabaseUnavailable, and then nothing is written.
    """
    while True:
        receipt = await _place(checkout, user_id, key, languages, db)
        if receipt is not None:
            break
        if key is not None:
            earlier = await _replay(checkout, user_id, key, db)
            if earlier is not None:
                return earlier
        # The key lapsed between the two looks at it.
    ORDERS["placed",] += 1
    MONEY["ordered", receipt.currency] += float(receipt.total)
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


async def _place(
    checkout: Checkout,
    user_id: str,
    key: IdempotencyKey | None,
    languages: Sequence[str],
    db: Database,
) -> Receipt | None:
    """Write an order in one statement with whoever else orders now; None if its key is taken."""
    order_id, payment_id = uuid7(), uuid7()
    quantities = checkout.quantities()
    address = checkout.shipping_address
    try:
        row = await db.batch(
            "place_orders",
            order_id,
            payment_id,
            user_id,
            None if key is None else key.key,
            None if key is None else _fingerprint(checkout),
            None if key is None else key.ttl_s,
            json.dumps(list(quantities.items())),
            checkout.payment_method.value,
            checkout.payment_token,
            checkout.contact.email,
            checkout.contact.phone,
            None if address is None else address.model_dump_json(by_alias=True),
            _by_wish(checkout.contact.language, languages),
            same=(MAX_TOTAL,),
            apart=None if key is None else (user_id, key.key),
        )
    except DatabaseRefused as refused:
        if refused.rule != _STOCK_RULE:
            raise
        raise await _out_of_stock(quantities, db) from None
    if row is None:
        raise LookupError("an order was neither placed nor refused")
    _check_placeable(row, quantities)
    if not row["placed"]:
        return None
    return Receipt(order_id, payment_id, OrderStatus.PENDING, row["total"], row["currencies"][0])


def _by_wish(own: str | None, languages: Sequence[str]) -> str | None:
    """Return the languages by space, the most wished first."""
    return " ".join((own, *languages) if own else languages) or None


#: The constraint on products.stock.
_STOCK_RULE = "products_stock_check"


def _check_placeable(row: Row, quantities: Mapping[str, int]) -> None:
    """Raise the reason why an order cannot be placed, if there is one."""
    if row["unknown"]:
        raise UnknownProducts(skus=row["unknown"])
    if len(row["currencies"]) > 1:
        raise MixedCurrencies(currencies=row["currencies"])
    if row["total"] > MAX_TOTAL:
        raise TotalTooLarge(limit=MAX_TOTAL)
    if row["short"] is not None:
        raise OutOfStock(sku=row["short"], quantity=quantities[row["short"]])


async def _out_of_stock(quantities: Mapping[str, int], db: Database) -> OutOfStock:
    """Say of what there was too little when others bought at the same time."""
    row = await db.fetchrow("find_short", list(quantities), list(quantities.values()))
    sku = row["sku"] if row is not None else next(iter(quantities))
    return OutOfStock(sku=sku, quantity=quantities[sku])


async def _replay(
    checkout: Checkout, user_id: str, key: IdempotencyKey, db: Database
) -> Receipt | None:
    # It only reads, so nothing has to be kept apart.
    kept = await db.batch("find_idempotency_key", user_id, key.key, apart=object())
    if kept is None:
        return None
    if kept["fingerprint"] != _fingerprint(checkout):
        raise IdempotencyKeyReused
    return Receipt.from_json(kept["answer"], replayed=True)


def _fingerprint(checkout: Checkout) -> bytes:
    """Return a digest of what was asked for: the same request, however its JSON was spelled."""
    return hashlib.sha256(checkout.model_dump_json().encode()).digest()
