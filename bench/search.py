"""What the indexes of the search cost, and what it takes: `python -m bench.search [ORDERS]`.

A PostgreSQL of its own is filled with ORDERS orders, five million unless said otherwise. Then rows
are written 128 a statement, as group commit does under load, with each index and without it in
turn; and orders are looked for by every kind of id.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TypeAlias

import asyncpg

from bench.servers import open_folder, open_postgres
from orderflow.db import Database, open_database
from orderflow.db.migrate import migrate

_BATCH, _BATCHES, _TURNS, _LOOKS = 128, 200, 3, 300

_FILL_AT_ONCE = 100_000
_INDEXES: Mapping[str, str] = import_module(
    "orderflow.db.migrations.versions.0011_search_filters"
).INDEXES

_FILL = """
    WITH made AS (
        -- As UUIDv7: those that come later sort later. The five orders of a customer lie far apart.
        SELECT n, (lpad(to_hex(n), 12, '0') || '7' || substr(md5(n::text), 1, 19))::uuid AS id
        FROM generate_series($1::bigint, $2::bigint) n
    ), placed AS (
        INSERT INTO orders (id, source, user_id, status, total, currency, email, notified_at)
        SELECT id, 'checkout', 'user-' || n % $3::bigint, 'confirmed', 10, 'EUR',
               md5((n % $3::bigint)::text) || '@shop.example', now()
        FROM made
    )
    INSERT INTO payments (id, order_id, method, amount, currency, status, transaction_id)
    SELECT gen_random_uuid(), id, 'card', 10, 'EUR', 'completed', 'ch_' || md5('t' || n)
    FROM made
"""
_PLACE = """
    INSERT INTO orders (id, source, user_id, status, total, currency, email)
    SELECT gen_random_uuid(), 'checkout', 'user', 'pending', 10, 'EUR',
           md5(random()::text) || '@shop.example'
    FROM generate_series(1, $1)
    RETURNING id
"""
_PAY = """
    INSERT INTO payments (id, order_id, method, amount, currency, status)
    SELECT gen_random_uuid(), id, 'card', 10, 'EUR', 'processing'
    FROM unnest($1::uuid[]) AS a(id)
    RETURNING id
"""
_SETTLE = """
    UPDATE payments SET status = 'completed', transaction_id = 'ch_' || md5(random()::text),
                        updated_at = now()
    WHERE id = ANY($1::uuid[])
"""


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def _fill(sql: Connection, orders: int) -> None:
    for name in _INDEXES:
        await sql.execute(f"DROP INDEX {name}")
    for first in range(0, orders, _FILL_AT_ONCE):
        await sql.execute(_FILL, first, min(first + _FILL_AT_ONCE, orders) - 1, orders // 5)
    await sql.execute("VACUUM (ANALYZE) orders, payments")
    for name in _INDEXES:
        began = time.monotonic()
        await _build(sql, name)
        size = await sql.fetchval("SELECT pg_size_pretty(pg_relation_size($1::regclass))", name)
        print(f"{name}: built in {time.monotonic() - began:.0f} s, {size}", flush=True)
    # How many orders an address has is known only where there is an index on it.
    await sql.execute("ANALYZE orders, payments")
    await sql.execute("CHECKPOINT")


async def _build(sql: Connection, name: str) -> None:
    await sql.execute(f"CREATE INDEX {name} ON {_INDEXES[name]}")


async def _placing(sql: Connection) -> float:
    """Return the microseconds that placing one order takes PostgreSQL."""
    began = time.monotonic()
    for _ in range(_BATCHES):
        await sql.fetch(_PLACE, _BATCH)
    return (time.monotonic() - began) / (_BATCHES * _BATCH) * 1e6


async def _settling(sql: Connection) -> float:
    """Return the microseconds that settling one payment takes PostgreSQL."""
    payments = []
    for _ in range(_BATCHES):
        orders = [row["id"] for row in await sql.fetch(_PLACE, _BATCH)]
        payments.append([row["id"] for row in await sql.fetch(_PAY, orders)])
    began = time.monotonic()
    for batch in payments:
        await sql.execute(_SETTLE, batch)
    return (time.monotonic() - began) / (_BATCHES * _BATCH) * 1e6


async def _compare(
    sql: Connection, name: str, what: str, measure: Callable[[Connection], Awaitable[float]]
) -> None:
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(_TURNS):
        for has_index in (True, False):
            await sql.execute(f"DROP INDEX IF EXISTS {name}")
            if has_index:
                await _build(sql, name)
            await sql.execute("CHECKPOINT")
            found[has_index].append(await measure(sql))
    await sql.execute(f"DROP INDEX IF EXISTS {name}")
    await _build(sql, name)
    with_it, without = (statistics.median(found[has_index]) for has_index in (True, False))
    print(f"{what}: {without:.1f} us without {name}, {with_it:.1f} us with it")


async def _look(db: Database, sql: Connection, orders: int) -> None:
    """Say how long a search takes, by each kind of id."""
    kinds = {
        "order id": "SELECT id::text FROM orders OFFSET $1 LIMIT 1",
        "payment id": "SELECT id::text FROM payments OFFSET $1 LIMIT 1",
        "e-mail": "SELECT email FROM orders OFFSET $1 LIMIT 1",
        "user id": "SELECT user_id FROM orders OFFSET $1 LIMIT 1",
        "transaction id": "SELECT transaction_id FROM payments OFFSET $1 LIMIT 1",
    }
    for kind, pick in kinds.items():
        texts = [await sql.fetchval(pick, random.randrange(orders)) for _ in range(_LOOKS // 10)]
        took = []
        for text in texts * 10:
            ids = [text] if kind.endswith("id") and len(text) == 36 else []
            began = time.monotonic()
            rows = await db.fetch("search_orders", ids, text.lower(), text, 20, [])
            took.append((time.monotonic() - began) * 1000)
            assert rows, f"nothing found by {kind}"
        cold, worst = took[: len(texts)], max(took)
        print(
            f"search by {kind}: median {statistics.median(took):.2f} ms, first looks "
            f"{statistics.median(cold):.2f} ms, worst {worst:.2f} ms",
            flush=True,
        )


async def _run(url: str, orders: int) -> None:
    await migrate(url)
    sql = await asyncpg.connect(url)
    try:
        await _fill(sql, orders)
        async with open_database(url, 2, 60_000) as db:
            await _look(db, sql, orders)
        await _compare(sql, "orders_email_filter", "placing an order", _placing)
        await _compare(sql, "payments_transaction_filter", "settling a payment", _settling)
    finally:
        await sql.close()


def main() -> None:
    """Measure, and print what was found."""
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with open_folder() as folder, open_postgres(folder / "postgres") as server:
        asyncio.run(_run(server.url, orders))


if __name__ == "__main__":
    main()
