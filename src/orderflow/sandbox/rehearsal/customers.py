"""The customers of a rehearsal: what order number n is, the same whenever it is asked.

A number that is placed a second time, after a break, is the same request with the same
idempotency key, so it makes no second order.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from orderflow.checkout import IdempotencyKey
from orderflow.checkout_body import Checkout
from orderflow.contract import PaymentMethod
from orderflow.products import Product

USERS = 100_000
#: Pieces of each counted product before the first order; no rehearsal sells one out.
STOCK = 1_000_000_000
_PRODUCTS = 1_000
_COUNTED_EVERY = 5
#: Longer than anyone waits before going on with a rehearsal.
_KEY_TTL_S = 30 * 24 * 3_600
#: Different carts. They are made once: reading bodies is the API's work, not the checkout's.
_CARTS = 3_000
#: All of them are charged at the gateway, as cash would not be.
_METHODS = (PaymentMethod.CARD, PaymentMethod.ONLINE, PaymentMethod.WALLET)


def products() -> list[Product]:
    """Return what the shop sells: a thousand products, the stock of every fifth is counted."""
    return [
        Product(
            sku=_sku(number),
            name=f"Product {number}",
            price=Decimal(100 + number * 7) / 100,
            currency="EUR",
            stock=STOCK if number % _COUNTED_EVERY == 0 else None,
        )
        for number in range(_PRODUCTS)
    ]


class Customers:
    """Knows what each order is."""

    def __init__(self) -> None:
        self._carts = [Checkout.model_validate(_cart(number)) for number in range(_CARTS)]

    def order(self, number: int) -> tuple[Checkout, str, IdempotencyKey]:
        """Return the request of an order, the id of its user, and its idempotency key."""
        # A step that shares no factor with the users, so that each comes as often as any other.
        user = f"user-{number * 61 % USERS}"
        key = IdempotencyKey(f"rehearsal-{number}", _KEY_TTL_S)
        return self._carts[number % _CARTS], user, key


def _cart(number: int) -> dict[str, Any]:
    """Return the body of a checkout with one to three different products."""
    lines = 1 + number % 3
    return {
        "items": [
            {"sku": _sku((number * 7 + line * 331) % _PRODUCTS), "quantity": 1 + line % 2}
            for line in range(lines)
        ],
        "paymentMethod": _METHODS[number // 3 % 3],
        "paymentToken": "tok_approve",
        "contact": {"email": f"customer-{number}@shop.example"},
    }


def _sku(number: int) -> str:
    return f"product-{number:04}"
