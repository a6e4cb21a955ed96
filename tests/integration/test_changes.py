"""Telling which orders changed: together, to who listens, and hardly where nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError
from tests.integration.reconciling import run_over_rested

from orderflow.bull import changes
from orderflow.bull.changes import ChangesListener
from orderflow.bull.queues import open_queues
from orderflow.contract import PaymentMethod
from orderflow.gateways import Charge
from orderflow.reconcile import Counts, Rules
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings

PATIENCE_S = 20


@pytest.fixture
async def listener(settings: Settings) -> AsyncIterator[ChangesListener]:
    listener = ChangesListener(settings.redis_servers, settings.queue_names)
    yield listener
    await listener.close()


async def heard(listener: ChangesListener, ids: set[str]) -> None:
    """Return once all of these were heard of."""
    async with asyncio.timeout(PATIENCE_S):
        while ids:
            ids = ids - await listener.heard(1.0)


def published(redis: Redis) -> int:
    stats = redis.info("commandstats").get("cmdstat_publish", {"calls": 0})
    return int(stats["calls"])


async def test_who_listens_hears(resources: Resources, listener: ChangesListener, redis: Redis):
    assert listener.beginnings == 0
    assert await listener.heard(1.0) == set()
    assert listener.beginnings == 1

    before = published(redis)
    orders = [uuid4() for _ in range(100)]
    for order_id in orders:
        resources.queues.changes.tell(order_id)
    await heard(listener, set(map(str, orders)))
    assert published(redis) == before + 1


async def test_what_comes_while_a_message_is_under_way_is_the_next(
    resources: Resources, listener: ChangesListener, redis: Redis
):
    await listener.heard(1.0)
    before = published(redis)
    orders = [uuid4() for _ in range(50)]
    for order_id in orders:
        resources.queues.changes.tell(order_id)
        await asyncio.sleep(0)
    await heard(listener, set(map(str, orders)))
    assert published(redis) - before < len(orders)


async def test_nobody_listening_is_asked_for_once_in_a_while(
    resources: Resources,
    listener: ChangesListener,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
):
    tell, before = resources.queues.changes.tell, published(redis)
    tell(uuid4())
    await resources.queues.changes.close()
    for _ in range(10):
        tell(uuid4())
        await asyncio.sleep(0)
    await resources.queues.changes.close()
    assert published(redis) == before + 1

    # And who comes then is told again, once the while is over.
    await listener.heard(1.0)
    monkeypatch.setattr(changes, "QUIET_S", 0.0)
    resources.queues.changes._quiet_until = 0.0
    last = uuid4()
    tell(last)
    await heard(listener, {str(last)})


async def test_it_waits_for_no_redis(settings: Settings):
    away = settings.model_copy(update={"redis_url": None, "redis_port": free_port()})
    async with open_queues(away) as queues:
        queues.changes.tell(uuid4())
    listener = ChangesListener(away.redis_servers, away.queue_names)
    with pytest.raises((RedisError, OSError)):
        await listener.heard(1.0)


async def test_a_listener_that_was_cut_off_begins_again(
    resources: Resources, listener: ChangesListener, redis: Redis
):
    await listener.heard(1.0)
    redis.client_kill_filter(_type="pubsub")
    async with asyncio.timeout(PATIENCE_S):
        while listener.beginnings < 2:
            try:
                await listener.heard(1.0)
            except (RedisError, OSError):
                continue
    order_id = uuid4()
    resources.queues.changes.tell(order_id)
    await heard(listener, {str(order_id)})


@pytest.mark.parametrize("turns", range(1, 5))
async def test_one_that_is_cancelled_while_it_stops_has_stopped(settings, listener, redis, turns):
    """At whatever turn of the loop the cancel comes."""
    channel = settings.queue_names.orders_changed
    await listener.heard(1.0)
    assert redis.pubsub_numsub(channel) == [(channel, 1)]

    stopping = asyncio.create_task(listener.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        while redis.pubsub_numsub(channel) != [(channel, 0)]:
            await asyncio.sleep(0.01)


async def test_what_is_said_last_is_said(settings: Settings, listener: ChangesListener):
    """As by a command line that cancels an order and ends."""
    await listener.heard(1.0)
    order_id = uuid4()
    async with open_queues(settings) as queues:
        queues.changes.tell(order_id)
    await heard(listener, {str(order_id)})


async def test_what_the_reconciler_writes_is_told(resources: Resources, place, sql, listener):
    paid, expired = await place(), await place()
    await resources.gateway.charge(
        Charge(str(paid.payment_id), paid.total, "EUR", PaymentMethod.CARD, None)
    )
    await sql.execute("UPDATE orders SET created_at = now() - interval '2 h'")
    await listener.heard(1.0)
    counts = await run_over_rested(resources, sql, Rules(order_ttl=timedelta(hours=1)))
    assert counts == Counts(unsettled=2, results_taken=1, orders_expired=1)
    await heard(listener, {str(paid.order_id), str(expired.order_id)})
