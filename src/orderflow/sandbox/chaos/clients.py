"""Clients that misbehave, or meet bad luck; the others must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx

from orderflow.sandbox.chaos.customers import Customers, Wish
from orderflow.sandbox.chaos.scenarios import Run, scenario

_AT_ONCE = 100
_IDLE_CONNECTIONS = 500
_SLOW_CONNECTIONS = 50


@scenario(
    "one-key",
    "A hundred requests at once have one idempotency key; another body has it; its first died",
)
async def _one_key(run: Run) -> list[str]:
    faults = []
    async with httpx.AsyncClient(
        timeout=30, trust_env=False, limits=httpx.Limits(max_connections=_AT_ONCE)
    ) as client:
        wish = run.customers.wish()
        await asyncio.gather(*(run.customers.send(client, wish) for _ in range(_AT_ONCE)))
        if wish.statuses.count(202) != _AT_ONCE:
            faults.append(f"of {_AT_ONCE} equal requests not all were answered 202")
        other = Wish(wish.email, wish.user, wish.key, wish.body | {"paymentMethod": "cash"})
        status = await run.customers.send(client, other)
        if status != 422:
            faults.append(f"the key with another body was answered {status}, not 422")
        for _ in range(10):
            interrupted = run.customers.wish()
            await _die_in_flight(run, interrupted)
            await run.customers.order(client, interrupted, patient=True)
    return faults


async def _die_in_flight(run: Run, wish: Wish) -> None:
    """Send a request and be gone before its answer."""
    async with _connection(run) as writer:
        body = json.dumps(wish.body).encode()
        writer.write(_head(run.customers, wish, len(body)) + body)
        await writer.drain()
        await asyncio.sleep(run.some_s(0, 0.02))


@scenario(
    "rude-clients",
    "Hundreds of idle connections, heads and bodies that never end, and bodies of 1 GB",
)
async def _rude_clients(run: Run) -> list[str]:
    async with contextlib.AsyncExitStack() as exits:
        for _ in range(_IDLE_CONNECTIONS):
            await exits.enter_async_context(_connection(run))
        slow = [await exits.enter_async_context(_connection(run)) for _ in range(_SLOW_CONNECTIONS)]
        wish = Wish("rude@shop.example", "rude", "rude", {})
        for number, writer in enumerate(slow):
            head = _head(run.customers, wish, 1_000_000_000 if number % 3 == 0 else 100)
            # Some never end their head, some their body, and some announce too much.
            writer.write(head[:-20] if number % 3 == 1 else head)
        for _ in range(20):
            await asyncio.sleep(0.1)
            for writer in slow:
                with contextlib.suppress(ConnectionError):
                    writer.write(b"x")
    return []


@contextlib.asynccontextmanager
async def _connection(run: Run) -> AsyncIterator[asyncio.StreamWriter]:
    address = urlsplit(run.chance.choice(run.stack.urls))
    _reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield writer
    finally:
        writer.transport.abort()


def _head(customers: Customers, wish: Wish, length: int) -> bytes:
    headers = customers.headers(wish) | {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(length),
    }
    lines = ["POST /checkout HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
