"""The client at a whole shop: an order's life as it tells it, and a shop that comes back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.conftest import SECRET
from tests.e2e.conftest import ShopProcesses

from orderflow.client import LiveStatus, Orders, SyncOrders
from orderflow.sandbox.tokens import make_token


@pytest.fixture
def shop(closed_shop: ShopProcesses) -> ShopProcesses:
    """A shop with as many processes as an order needs to be paid."""
    closed_shop.start("payment", "api")
    return closed_shop


def token(user: str = "user-1", *, admin: bool = False) -> str:
    return make_token(SECRET, user, admin=admin)


async def test_an_order_is_followed_to_its_end(shop: ShopProcesses) -> None:
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        Orders(shop.url, token(), http=http) as orders,
        Orders(shop.url, token("olga", admin=True), http=http) as admin,
    ):
        receipt = await orders.checkout(
            items={"pot-glass": 1},
            payment_method="card",
            payment_token="tok_approve",
            email="ada@shop.example",
        )
        told: list[LiveStatus] = []
        async for status in orders.events(receipt.order_id):
            told.append(status)
            if status.status == "confirmed":
                await admin.ship(receipt.order_id, "Parcels Ltd", "0034")
            if status.status == "shipped":
                # The one who follows is at a process that stops, and goes on at the next.
                await asyncio.to_thread(shop.stop, "api")
                await asyncio.to_thread(shop.start, "api")
                await admin.deliver(receipt.order_id)
        statuses = [status.status for status in told]
        assert statuses[-3:] == ["confirmed", "shipped", "delivered"]
        assert len(set(statuses)) == len({status.event_id for status in told})
        assert told[-1].shipment is not None
        assert told[-1].shipment.tracking_number == "0034"
        assert [s async for s in orders.events(receipt.order_id, after=told[-1].event_id)] == []


def test_a_declined_order_is_followed_to_its_end_without_asyncio(shop: ShopProcesses) -> None:
    with (
        httpx.Client(trust_env=False) as http,
        SyncOrders(shop.url, token(), http=http) as orders,
    ):
        receipt = orders.checkout(
            items={"pot-glass": 1},
            payment_method="card",
            payment_token="tok_decline_insufficient_funds",
            email="ada@shop.example",
        )
        *_, last = orders.events(receipt.order_id)
        assert (last.status, last.payment.status) == ("cancelled", "failed")
        assert last.payment.decline_reason == "insufficient_funds"


def test_a_checkout_waits_for_a_shop_that_is_being_replaced(closed_shop: ShopProcesses) -> None:
    closed_shop.start("api")
    closed_shop.stop("api")
    with (
        httpx.Client(trust_env=False) as http,
        SyncOrders(closed_shop.url, token(), http=http) as orders,
        ThreadPoolExecutor() as threads,
    ):
        placing = threads.submit(
            orders.checkout,
            items={"pot-glass": 1},
            payment_method="cash",
            email="ada@shop.example",
        )
        closed_shop.start("api")
        receipt = placing.result()
        assert [order.order_id for order in orders.orders()] == [receipt.order_id]
