"""Clients that misbehave, or meet bad luck; the others must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx

from orderflow.sandbox.chaos.customers import Customers, Wish
from orderflow.sandbox.chaos.scenarios import Run, scenario

_AT_ONCE = 100
_SLOW_CONNECTIONS = 50
_FLOODS = 2
#: Those of the customers, the servers and the logs, with some to spare.
_FILES_OF_OUR_OWN = 500
_RUDE = Wish("rude@shop.example", "rude", "rude", {})


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
        # More than any wish has of it.
        more = {"items": [{"sku": "counted", "quantity": 4}]}
        other = Wish(wish.email, wish.user, wish.key, wish.body | more)
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
    "Idle connections by the thousand, heads and bodies that never end, and bodies of 1 GB",
)
async def _rude_clients(run: Run) -> list[str]:
    async with contextlib.AsyncExitStack() as exits:
        for _ in range(_idle_connections(run.orders)):
            exits.enter_context(await _idle_connection(run))
        slow = [await exits.enter_async_context(_connection(run)) for _ in range(_SLOW_CONNECTIONS)]
        for number, writer in enumerate(slow):
            writer.write(_unended(run, number))
        floods = asyncio.gather(*(_flood(run) for _ in range(_FLOODS)))
        for _ in range(20):
            await asyncio.sleep(0.1)
            for writer in slow:
                writer.write(b"x")
        await floods
    refused = [status for wish in run.customers.wishes for status in wish.statuses if status != 202]
    return [f"others were answered {refused}, not 202"] if refused else []


def _idle_connections(orders: int) -> int:
    """Return how many: ten thousand, or fewer in a short run, or as the limit of files allows."""
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, min(10_000, 50 * orders, limit - _FILES_OF_OUR_OWN))


async def _idle_connection(run: Run) -> socket.socket:
    """Connect, and say nothing. A bare socket: thousands of more would slow the customers."""
    address = urlsplit(run.chance.choice(run.stack.urls))
    idle = socket.socket()
    idle.setblocking(False)
    await asyncio.get_running_loop().sock_connect(idle, (address.hostname, address.port))
    return idle


def _unended(run: Run, number: int) -> bytes:
    """Return a request that never ends its head, or its body, or that announces 1 GB."""
    head = _head(run.customers, _RUDE, 1_000_000_000 if number % 3 == 0 else 100)
    return head[:-20] if number % 3 == 1 else head


async def _flood(run: Run) -> None:
    """Send a body of 1 GB that was not announced, for as long as it is taken."""
    async with _connection(run) as writer:
        writer.write(_head(run.customers, _RUDE, None))
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):
                writer.write(chunk)
                await writer.drain()


@contextlib.asynccontextmanager
async def _connection(run: Run) -> AsyncIterator[asyncio.StreamWriter]:
    address = urlsplit(run.chance.choice(run.stack.urls))
    _reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield writer
    finally:
        writer.transport.abort()


def _head(customers: Customers, wish: Wish, length: int | None) -> bytes:
    """Return the head of a checkout; a body without a length comes in chunks."""
    body = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    headers = customers.headers(wish) | {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        **body,
    }
    lines = ["POST /checkout HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
