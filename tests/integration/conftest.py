"""An order, placed by the real checkout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from orderflow.checkout import Checkout, Receipt, place_order
from orderflow.resources import Resources

PlaceOrder = Callable[..., Awaitable[Receipt]]


def checkout_body(**changes: Any) -> dict[str, Any]:
    return {
        "items": [{"sku": "pot-glass", "quantity": 2}],
        "paymentMethod": "card",
        "paymentToken": "tok_approve",
        "contact": {"email": "ada@shop.example"},
    } | changes


@pytest.fixture
def place(resources: Resources) -> PlaceOrder:
    async def place(**changes: Any) -> Receipt:
        return await place_order(
            Checkout.model_validate(checkout_body(**changes)),
            "user-1",
            None,
            db=resources.db,
            queues=resources.queues,
        )

    return place
