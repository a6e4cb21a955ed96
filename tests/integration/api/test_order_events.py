"""GET /orders/{id}/events: who may follow an order, what they are told, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from tests.conftest import SECRET, process_environment, start_program, wait_until
from tests.integration.api.conftest import validate
from tests.integration.api.following import PATIENCE_S, Event, Server, running
from tests.integration.life import cancel, charge, give_back, refund_of, ship

from orderflow.api import order_events, streams
from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings
from orderflow.shipping import deliver_order

Sql = asyncpg.Connection


@pytest.fixture
async def server(settings: Settings, resources: Resources) -> AsyncIterator[Server]:
    assert resources
    async with running(settings) as server:
        yield server


async def place(resources: Resources, token: str = "tok_approve", user: str = "user-1") -> Receipt:
    checkout = Checkout.model_validate(
        {
            "items": [{"sku": "pot-glass", "quantity": 2}],
            "paymentMethod": "card",
            "paymentToken": token,
            "contact": {"email": "ada@shop.example"},
        }
    )
    return await place_order(checkout, user, None, db=resources.db, queues=resources.queues)


async def deliver(resources: Resources, receipt: Receipt) -> None:
    await deliver_order(str(receipt.order_id), db=resources.db, queues=resources.queues)


def statuses(events: list[Event]) -> list[str]:
    return [event.data["status"] for event in events if event.name == "status"]


async def test_an_order_is_followed_to_its_end(server: Server, resources: Resources):
    receipt = await place(resources)
    async with server.follow(receipt.order_id) as stream:
        headers = stream.answer.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        first = await stream.next()
        assert first is not None
        assert (first.name, first.id) == ("status", "pending.pending.0")
        assert stream.retry_ms is not None
        assert 1_000 <= stream.retry_ms <= 5_000
        at = first.data.pop("at")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(at)) < timedelta(minutes=1)
        assert first.data == {
            "orderId": str(receipt.order_id),
            "status": "pending",
            "payment": {"status": "pending", "declineReason": None},
            "shipment": None,
            "refunds": [],
        }

        await charge(resources, receipt)
        confirmed = (await stream.until("status", "confirmed"))[-1]
        assert confirmed.data["payment"]["status"] == "completed"
        await ship(resources, receipt)
        shipped = (await stream.until("status", "shipped"))[-1]
        assert shipped.data["shipment"]["trackingNumber"] == "1"
        validate(shipped.data, {"$ref": "#/components/schemas/LiveStatus"})
        await deliver(resources, receipt)
        delivered, end = await stream.rest()
        assert (delivered.data["status"], end.name) == ("delivered", "end")
        assert end.id == delivered.id == "delivered.completed.0"

    async with server.follow(receipt.order_id, seen=end.id) as over:
        assert (over.answer.status_code, await over.answer.aread()) == (204, b"")
    async with server.follow(receipt.order_id) as anew:
        assert anew.answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert [event.name for event in await anew.rest()] == ["status", "end"]


async def test_who_was_away_is_told_what_came_meanwhile(server: Server, resources: Resources):
    receipt = await place(resources)
    await charge(resources, receipt)
    await ship(resources, receipt)
    for seen, missed in (
        ("pending.pending.0", ["confirmed", "shipped"]),
        ("processing.processing.0", ["confirmed", "shipped"]),
        ("confirmed.completed.0", ["shipped"]),
        ("", ["shipped"]),
    ):
        async with server.follow(receipt.order_id, seen=seen) as stream:
            events = await stream.until("status", "shipped")
            assert statuses(events) == missed
            times = [event.data["at"] for event in events]
            assert times == sorted(times)
    # Who knows how it is now is told nothing until that changes.
    async with server.follow(receipt.order_id, seen="shipped.completed.0") as stream:
        await deliver(resources, receipt)
        assert statuses(await stream.rest()) == ["delivered"]


async def test_a_decline_is_an_end_with_its_reason(server: Server, resources: Resources):
    receipt = await place(resources, token="tok_decline")
    async with server.follow(receipt.order_id) as stream:
        await stream.until("status", "pending")
        await charge(resources, receipt)
        *_, cancelled, end = await stream.rest()
        assert cancelled.data["status"] == "cancelled"
        assert cancelled.data["payment"] == {"status": "failed", "declineReason": "card_declined"}
        assert end.name == "end"


async def test_a_cancelled_order_is_followed_until_its_money_is_back(
    server: Server, resources: Resources
):
    receipt = await place(resources)
    await charge(resources, receipt)
    async with server.follow(receipt.order_id) as stream:
        await stream.until("status", "confirmed")
        await cancel(resources, receipt)
        cancelled = (await stream.until("status", "cancelled"))[-1]
        [refund] = cancelled.data["refunds"]
        assert (refund["status"], refund["amount"]) == ("pending", str(receipt.total))
        made = await refund_of(resources, receipt)
        await give_back(resources, receipt, made.refund_id)
        refunded, end = await stream.rest()
        assert refunded.data["payment"]["status"] == "refunded"
        assert [refund["status"] for refund in refunded.data["refunds"]] == ["completed"]
        assert end.name == "end"


async def test_it_is_for_who_may_see_the_order(server: Server, api: Any, resources: Resources):
    receipt = await place(resources)
    path = f"/orders/{receipt.order_id}/events"
    theirs = await api.get(path, user="user-2")
    assert (theirs.status_code, api.problem(theirs)) == (404, "order-not-found")
    nowhere = await api.get("/orders/nothing/events", admin=True)
    assert (nowhere.status_code, api.problem(nowhere)) == (404, "order-not-found")
    nobody = await api.client.get(path)
    assert (nobody.status_code, api.problem(nobody)) == (401, "unauthenticated")
    async with server.follow(receipt.order_id, user="boss", admin=True) as stream:
        assert statuses(await stream.until("status", "pending")) == ["pending"]
    async with server.follow(receipt.order_id, method="HEAD") as head:
        assert (head.answer.status_code, await head.answer.aread()) == (200, b"")


@pytest.mark.parametrize("seen", ["17", "pending", "confirmed.completed.0", "pending.pending.1"])
async def test_an_id_of_no_event_is_told_so(api: Any, resources: Resources, seen: str):
    """Garbled, or of what this order cannot have been."""
    receipt = await place(resources)
    path = f"/orders/{receipt.order_id}/events"
    answer = await api.client.get(path, headers=api.bearer() | {"Last-Event-ID": seen})
    assert (answer.status_code, api.problem(answer)) == (400, "invalid-header")
    assert api.faults(answer) == [("Last-Event-ID", "id-of-an-event")]
    assert answer.json()["detail"].startswith("Last-Event-ID: Send the `id` of an event")


async def test_silence_is_broken_by_heartbeats(
    server: Server, resources: Resources, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(order_events, "HEARTBEAT_S", 0.02)
    receipt = await place(resources)
    async with server.follow(receipt.order_id) as stream:
        await stream.until("status", "pending")
        await stream.heartbeats(3)
        await charge(resources, receipt)
        await stream.until("status", "confirmed")


async def test_without_redis_it_comes_a_little_later(
    settings: Settings, resources: Resources, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "_TICK_S", 0.05)
    monkeypatch.setattr(streams, "LOOK_WHILE_AWAY_EVERY_S", 0.05)
    away = settings.model_copy(update={"redis_url": None, "redis_port": free_port()})
    receipt = await place(resources)
    async with running(away) as server, server.follow(receipt.order_id) as stream:
        await stream.until("status", "pending")
        await charge(resources, receipt)
        await stream.until("status", "confirmed")


async def test_a_lost_message_is_a_delay(
    settings: Settings, resources: Resources, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    """Nobody tells of what is written by hand."""
    monkeypatch.setattr(streams, "_TICK_S", 0.05)
    monkeypatch.setattr(streams, "LOOK_EVERY_S", 0.2)
    receipt = await place(resources)
    async with running(settings) as server, server.follow(receipt.order_id) as stream:
        await stream.until("status", "pending")
        await sql.execute("UPDATE orders SET status = 'processing'")
        await stream.until("status", "processing")


async def test_it_ends_with_its_token(server: Server, resources: Resources):
    receipt = await place(resources)
    async with server.follow(receipt.order_id, ttl_s=2) as stream:
        assert [event.name for event in await stream.rest()] == ["status"]


async def test_there_are_not_too_many(settings: Settings, resources: Resources):
    receipt = await place(resources)
    few = settings.model_copy(update={"max_streams": streams.MOST_OF_USER + 1})
    async with running(few) as server, AsyncExitStack() as stack:
        for _ in range(streams.MOST_OF_USER):
            await stack.enter_async_context(server.follow(receipt.order_id))
        async with server.follow(receipt.order_id) as more:
            await more.answer.aread()
            assert more.answer.status_code == 429
            assert more.answer.json()["type"].endswith(":too-many-streams-of-user")
            assert more.answer.headers["Retry-After"] == "10"
        async with (
            server.follow(receipt.order_id, admin=True, user="boss"),
            server.follow(receipt.order_id, admin=True, user="boss") as full,
        ):
            await full.answer.aread()
            assert full.answer.status_code == 503
            assert full.answer.json()["type"].endswith(":too-many-streams")
        # Who leaves makes room.
        async with asyncio.timeout(PATIENCE_S):
            status = 503
            while status != 200:
                async with server.follow(receipt.order_id, admin=True, user="boss") as next_one:
                    status = next_one.answer.status_code


async def test_streams_leave_connections_to_others(settings: Settings):
    assert settings.model_copy(update={"max_connections": 8}).streams_at_most == 4
    assert settings.streams_at_most == settings.max_streams


async def test_one_that_stops_ends_its_streams(
    settings: Settings, resources: Resources, tmp_path: Path
):
    """A process goes on serving for its grace, and ends its streams so that they go elsewhere."""
    receipt = await place(resources)
    port = free_port()
    environment = {"PORT": str(port), "JWT_SECRET": SECRET, "SHUTDOWN_GRACE_MS": "1500"}
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings) | environment,
    )
    await asyncio.to_thread(wait_until, lambda: port_is_taken(port), "the API")
    url = f"http://127.0.0.1:{port}/orders/{receipt.order_id}/events"
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1')}"}
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False, headers=headers) as client:
        async with client.stream("GET", url) as answer:
            pieces = answer.aiter_text()
            said = await anext(pieces)
            program.process.terminate()
            async for piece in pieces:
                said += piece
        assert "event: status" in said
        assert "event: end" not in said
        # In the grace who comes is told how it is, and sent away.
        again = await client.get(url)
        assert "pending.pending.0" in again.text
    assert await asyncio.to_thread(program.process.wait, 30) == 0
    assert "Traceback" not in program.log.read_text()
