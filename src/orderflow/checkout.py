"""Checkout: a customer's wish becomes an order, its items and its payment in one commit.

The commit is the promise. The job that charges is added after it, if Redis answers in time; if
not, the reconciler adds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import structlog
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from pydantic import (
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.contract import PaymentMethod, payment_job
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

#: Text of a customer: PostgreSQL keeps no NUL, and no line of ours wants a control character.
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)
]
Sku = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]


#: The addresses that nearly everybody has. Any other is the library's to judge, at twenty times
#: the cost: quoted or international ones, and those at names that the Internet does not have.
_PLAIN_EMAIL = re.compile(
    r"(?=.{6,254}\Z)([a-z0-9_+-]{1,64}|(?=[^@]{1,64}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)+)"
    r"@((?:[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}(?<!-)\.)+[a-z]{2,63})",
    re.IGNORECASE | re.ASCII,
)
_NO_MAIL = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES)


def _check_email(given: object, full_check: ValidatorFunctionWrapHandler) -> str:
    """Return an address as `email_validator` normalizes it: its domain in small letters."""
    plain = _PLAIN_EMAIL.fullmatch(given) if isinstance(given, str) else None
    if plain is None:
        return str(full_check(given))
    domain = plain[2].lower()
    if f".{domain}".endswith(_NO_MAIL):
        return str(full_check(given))
    return f"{plain[1]}@{domain}"


Email = Annotated[EmailStr, WrapValidator(_check_email)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class CheckoutItem(_Body):
    """What is bought, and how many of it. Prices come from the shop, never from the client."""

    sku: Sku
    quantity: int = Field(ge=1, le=1_000, strict=True)


class Contact(_Body):
    """Where the customer is told how the order went."""

    email: Email
    phone: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")] | None = Field(
        default=None, description="E.164, as +4915112345678"
    )
    # Left out where it is not given, as it was before there was one: or a request that is sent
    # again after a deploy would not be the same to its idempotency key.
    language: (
        Annotated[
            str,
            StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$"),
        ]
        | None
    ) = Field(
        default=None,
        description="A language tag, as de or de-AT; it goes before Accept-Language",
        exclude_if=lambda given: given is None,
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
