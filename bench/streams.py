"""What open streams of orders cost an API process, and how soon they tell of a change.

    python -m bench.streams --streams 10000

It starts a Redis, a PostgreSQL and one API process of its own, opens the streams, each of another
order, leaves them alone for a while, and then ships some of the orders.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
import timeit
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import uvloop
from uuid_utils.compat import uuid7

from bench.errors import RowAborted
from bench.processes import Program, python, wait_until
from bench.servers import SECRET, SHOP, SHOP_ORDERS, Lab, Place, now_s, open_lab, percentile
from orderflow.bull.changes import Changes
from orderflow.orders import OrderStatus, may_become_order
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token

#: Streams that are being opened at once.
_OPENING = 100
#: Orders that are changed, and how many a second.
_CHANGES = 2_000
_RATE = 200
#: Two heartbeats.
_IDLE_S = 30.0
#: Files that a process has open besides.
_FILES = 200
_PATIENCE_S = 60.0


def main() -> int:
    """Measure, and say what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000, help="how many (default 10000)")
    streams = parser.parse_args().streams
    if streams > SHOP_ORDERS:
        raise RowAborted(f"the shop has {SHOP_ORDERS} orders to follow")
    _allow_files(streams + _FILES)
    _say_what_telling_costs()
    with open_lab("warning", postgres=True) as lab, lab.place_on(SHOP) as place:
        port = free_port()
        limits = {"MAX_STREAMS": str(streams), "MAX_CONNECTIONS": str(2 * streams)}
        # Other work on the machine may hold PostgreSQL up, which is not what is measured.
        limits["DATABASE_TIMEOUT_MS"] = "30000"
        environment = place.environment(PORT=str(port), **limits)
        with lab.running("api", python("orderflow.api"), environment) as api:
            wait_until(lambda: port_is_taken(port), "the API", [api])
            uvloop.run(_measure(lab, place, api, port, streams))
    return 0


def _allow_files(files: int) -> None:
    """Let this process, and what it starts, have so many files open. Raises RowAborted."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < files:
        raise RowAborted(f"ulimit -Hn is {most}, and {files} files will be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


def _say_what_telling_costs() -> None:
    """Say what a use case pays to tell of a change while nobody listens."""
    changes = Changes(cast(Any, None), "bench")
    changes._quiet_until = time.monotonic() + 60
    order_id, number = uuid4(), 200_000
    tell_s = min(timeit.repeat(lambda: changes.tell(order_id), number=number)) / number
    print(f"to tell of a change while nobody listens: {tell_s * 1e6:.2f} us", flush=True)


class _Reader(asyncio.Protocol):
    """One stream, from its request on: when it told of its order, and of its shipping."""

    def __init__(self, request: bytes, is_open: asyncio.Future[None]) -> None:
        self._request = request
        self._is_open = is_open
        self.shipped_at: float | None = None
        self.said = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if b'"status":"shipped"' in data:
            self.shipped_at = now_s()
        elif not self._is_open.done():
            self.said += data
            if b'"status":"confirmed"' in self.said:
                self._is_open.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._is_open.done():
            said = self.said.decode(errors="replace")
            self._is_open.set_exception(RowAborted(f"a stream did not open: {said}"))


async def _measure(lab: Lab, place: Place, api: Program, port: int, streams: int) -> None:
    before = api.resident_bytes
    rows = await asyncio.to_thread(
        lab.sql, "SELECT id FROM orders ORDER BY id LIMIT $1", streams, database=SHOP
    )
    orders = [UUID(str(row["id"])) for row in rows]
    started, cpu_s = now_s(), api.cpu_s
    readers = await _open(orders, port)
    taken_s = now_s() - started
    held = api.resident_bytes
    print(
        f"{streams:,} streams opened in {taken_s:.1f} s ({api.cpu_s - cpu_s:.1f} s of CPU): "
        f"the process holds {held / 1e6:.0f} MB, {before / 1e6:.0f} MB without them, "
        f"{(held - before) / streams / 1e3:.1f} kB each",
        flush=True,
    )
    cpu_s = api.cpu_s
    await asyncio.sleep(_IDLE_S)
    print(f"left alone they cost {100 * (api.cpu_s - cpu_s) / _IDLE_S:.1f} % of a core", flush=True)
    async with open_resources(place.settings()) as resources:
        delays_ms = await _change(resources, orders[: min(_CHANGES, streams)], readers)
    print(
        f"{len(delays_ms):,} changes, {_RATE} a second, from the commit to the event: "
        f"p50 {percentile(delays_ms, 50):.1f} ms, p99 {percentile(delays_ms, 99):.1f} ms, "
        f"longest {max(delays_ms):.1f} ms; the process holds {api.resident_bytes / 1e6:.0f} MB"
    )


async def _open(orders: Sequence[UUID], port: int) -> dict[UUID, _Reader]:
    loop = asyncio.get_running_loop()
    token = make_token(SECRET, "watcher", admin=True)
    readers: dict[UUID, _Reader] = {}
    room = asyncio.Semaphore(_OPENING)

    async def open_one(order_id: UUID) -> None:
        request = (
            f"GET /orders/{order_id}/events HTTP/1.1\r\nHost: shop\r\n"
            f"Accept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        is_open = loop.create_future()
        async with room, asyncio.timeout(_PATIENCE_S):
            _, reader = await loop.create_connection(
                lambda: _Reader(request, is_open), "127.0.0.1", port
            )
            await is_open
        readers[order_id] = reader

    async with asyncio.TaskGroup() as group:
        for order_id in orders:
            group.create_task(open_one(order_id))
    return readers


async def _change(
    resources: Resources, orders: Sequence[UUID], readers: dict[UUID, _Reader]
) -> list[float]:
    """Ship the orders; return the milliseconds from each commit to its event."""
    committed: dict[UUID, float] = {}
    args = ("shipped", may_become_order(OrderStatus.SHIPPED))
    details = {"carrier": "Parcels", "trackingNumber": "1"}

    async def ship(order_id: UUID) -> None:
        await resources.db.fetchrow(
            "advance_order", order_id, *args, uuid7(), "order-shipped", details
        )
        committed[order_id] = now_s()
        resources.queues.changes.tell(order_id)

    started = now_s()
    async with asyncio.TaskGroup() as group:
        for n, order_id in enumerate(orders):
            await asyncio.sleep(started + n / _RATE - now_s())
            group.create_task(ship(order_id))
    deadline = now_s() + _PATIENCE_S
    while any(readers[order_id].shipped_at is None for order_id in orders):
        if now_s() > deadline:
            raise RowAborted("not every stream told of its change")
        await asyncio.sleep(0.05)
    return [1e3 * (cast(float, readers[id_].shipped_at) - committed[id_]) for id_ in orders]


if __name__ == "__main__":
    sys.exit(main())
