"""What reads at a replica take off the primary, and cost: `python -m bench.replica [READS]`.

A PostgreSQL of its own with a standby beside it. Orders are read by their id, 32 at once, at the
primary alone and at the replica in turn, while others are placed. The median of the turns is told:
reads a second, how long one takes, and the CPU of the primary's processes for each.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from contextlib import ExitStack
from uuid import UUID

import psutil

from bench.servers import POSTGRES_SETTINGS, open_folder, open_postgres
from bench.shop import add_paid_orders, open_shop
from orderflow.db import Database, Reads, open_database
from orderflow.db.migrate import migrate
from orderflow.db.replica import open_reads
from orderflow.logs import configure_logs
from orderflow.sandbox.chaos.homes import processes_of
from orderflow.sandbox.servers import Server, free_port, start_standby
from orderflow.settings import Settings, load_settings

_AT_ONCE, _TURNS = 32, 5
_ORDERS = 20_000
#: So that the replica has something to follow: a small commit, again and again.
_PAUSE_S = 0.005
#: The replica is read at once it was looked at.
_FIRST_LOOK_S = 2


async def _read(reads: Reads, ids: list[UUID], count: int) -> tuple[float, float]:
    """Return how many reads a second were done, and how long one took, in milliseconds."""
    left, waits = iter(range(count)), []

    async def one_after_the_other() -> None:
        for number in left:
            began = time.perf_counter()
            if await reads.fetchrow("find_order", ids[number % len(ids)]) is None:
                raise RuntimeError("an order is missing")
            waits.append((time.perf_counter() - began) * 1_000)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    return count / (time.perf_counter() - began), statistics.median(waits)


async def _write(db: Database, ids: list[UUID]) -> None:
    for order_id in ids:
        await db.fetchrow("mark_notified", order_id)
        await asyncio.sleep(_PAUSE_S)


def _cpu_s(server: Server) -> float:
    used = 0.0
    for process in processes_of(server):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


async def _compare(settings: Settings, primary: Server, ids: list[UUID], count: int) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {}
    async with (
        open_database(settings.database_dsn, 10, 60_000) as db,
        open_database(settings.database_dsn, 2, 60_000) as other,
        open_reads(settings, db) as at_replica,
    ):
        writing = asyncio.create_task(_write(other, ids))
        await asyncio.sleep(_FIRST_LOOK_S)
        for _ in range(_TURNS):
            for way, reads in {"primary": db, "replica": at_replica}.items():
                await _read(reads, ids, count // 10)
                before = _cpu_s(primary)
                rate, wait_ms = await _read(reads, ids, count)
                cpu_us = (_cpu_s(primary) - before) / count * 1e6
                found.setdefault(way, []).append((rate, wait_ms, cpu_us))
        writing.cancel()
    for way, turns in found.items():
        rate, wait_ms, cpu_us = map(statistics.median, zip(*turns, strict=True))
        print(
            f"at the {way}: {rate:,.0f} reads/s, {wait_ms:.1f} ms, {cpu_us:.0f} µs of the primary"
        )


def main() -> None:
    """Measure, and print what was found."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    configure_logs("json", "warning")
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        primary = stack.enter_context(open_postgres(folder / "primary"))
        asyncio.run(migrate(primary.url))
        open_shop(primary.url, 1_000)
        ids = add_paid_orders(primary.url, _ORDERS)
        standby = start_standby(folder / "standby", free_port(), primary, POSTGRES_SETTINGS)
        stack.callback(standby.stop)
        settings = load_settings(database_url=primary.url, database_replica_url=standby.url)
        asyncio.run(_compare(settings, primary, ids, count))


if __name__ == "__main__":
    main()
