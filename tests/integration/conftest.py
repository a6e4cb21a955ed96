"""An order, placed by the real checkout; and a worker's loop, with a queue to feed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.integration.life import charge
from tests.integration.stripe_server import Stripe, run_stripe

from orderflow.bull.connection import connect_wait, connect_worker
from orderflow.bull.producer import NodeQueue
from orderflow.bull.slots import SlotWorker
from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.orders import OrderRefund
from orderflow.redis_servers import RedisServers
from orderflow.refund import request_refund
from orderflow.resources import Resources, open_resources
from orderflow.settings import Settings

PATIENCE_S = 20

PlaceOrder = Callable[..., Awaitable[Receipt]]
AskRefund = Callable[..., Awaitable[OrderRefund]]


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


@pytest.fixture
def paid(resources: Resources, place: PlaceOrder) -> PlaceOrder:
    """Place an order, and have it charged."""

    async def paid(**changes: Any) -> Receipt:
        receipt = await place(**changes)
        await charge(resources, receipt)
        return receipt

    return paid


@pytest.fixture
def ask(resources: Resources) -> AskRefund:
    """Ask for a refund of an order."""

    async def ask(receipt: Receipt, amount: str | None = None, key: str = "a") -> OrderRefund:
        return await request_refund(
            str(receipt.order_id),
            Decimal(amount) if amount else None,
            key,
            db=resources.db,
            queues=resources.queues,
        )

    return ask


@pytest.fixture
async def hasty(settings: Settings, resources: Resources) -> AsyncIterator[Resources]:
    """Resources that do not wait for the gateway for long."""
    assert resources
    async with open_resources(settings.model_copy(update={"gateway_timeout_ms": 500})) as opened:
        yield opened


@pytest.fixture
async def patient(settings: Settings, resources: Resources) -> AsyncIterator[Resources]:
    """Resources for many that work at once on a machine that has other things to do, too."""
    assert resources
    slow = {"database_timeout_ms": 30_000, "gateway_timeout_ms": 30_000}
    async with open_resources(settings.model_copy(update=slow)) as opened:
        yield opened


class Probe:
    """A queue, a worker on it, and what the worker told."""

    def __init__(self, url: str, prefix: str, processor: Any, **opts: Any) -> None:
        self.prefix = f"{prefix}:probe"
        self.redis = Redis.from_url(url, decode_responses=True)
        servers = RedisServers(url)
        self.queue = NodeQueue(
            "probe", {"connection": connect_worker(servers, prefix), "prefix": prefix}
        )
        self.told: list[tuple[str, str]] = []
        self.worker = SlotWorker(
            "probe",
            processor,
            {
                "autorun": False,
                "connection": connect_worker(servers, prefix),
                "blockingConnection": connect_wait(servers, prefix),
                "prefix": prefix,
                "lockDuration": 20_000,
                "stalledInterval": 300,
                "runRetryDelay": 100,
                "poisonDeaths": 3,
            }
            | opts,
        )
        for event in ("completed", "failed", "error"):
            self.worker.on(event, lambda first, *_, e=event: self.told.append((e, str(first))))
        self.loop = asyncio.create_task(self.worker.run())

    async def until(self, answers: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await _unless_redis_is_away(answers):
                await asyncio.sleep(0.01)

    async def until_told(self, event: str, text: str = "") -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not any(e == event and text in said for e, said in self.told):
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self.worker.close(force=True)
        await asyncio.gather(self.loop, return_exceptions=True)
        await self.queue.close()
        await self.redis.aclose()


async def _unless_redis_is_away(answers: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await answers()
    except (RedisError, OSError):
        return None


@pytest.fixture
async def probe() -> AsyncIterator[Callable[..., Probe]]:
    probes: list[Probe] = []

    def make(*args: Any, **opts: Any) -> Probe:
        probes.append(Probe(*args, **opts))
        return probes[-1]

    yield make
    for made in probes:
        await made.close()


@pytest.fixture(scope="module")
def stripe_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stripe]:
    with run_stripe(tmp_path_factory.mktemp("stripe")) as stripe:
        yield stripe


@pytest.fixture
def stripe(stripe_process: Stripe) -> Stripe:
    stripe_process.reset()
    return stripe_process
