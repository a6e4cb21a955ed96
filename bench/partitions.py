"""What partitions of the orders by time would bring: `python -m bench.partitions [ORDERS]`.

A PostgreSQL of its own is filled twice with ORDERS orders of thirteen months, a million unless said
otherwise: as the schema is, and with a partition a month. Each time orders are placed, looked up by
their id and by their user, and the oldest month is purged. Five million take six minutes and 10 GB
of disk, twenty million most of an hour and 25 GB.

The partitions go by the order's id, which begins with its time: so a look-up by it needs one only.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

import asyncpg
import psutil
from uuid_utils.compat import uuid7

from bench.servers import open_folder, open_postgres
from orderflow.db import Database, open_database
from orderflow.db.migrate import migrate
from orderflow.ended import end_statuses
from orderflow.sandbox.servers import Server

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_MONTHS, _MONTH = 13, timedelta(days=30)
_FILL_AT_ONCE = 100_000
_BATCH, _BATCHES, _LOOKS = 128, 150, 2_000
_PURGED_AT_ONCE = 1_000

#: Orders of the last thirteen months that all came to their end, with what hangs on each.
_FILL = """
    WITH made AS MATERIALIZED (
        SELECT n, m.id, to_timestamp(m.ms / 1000.0) AS at
        FROM generate_series($1::bigint, $2::bigint) n
        CROSS JOIN LATERAL (SELECT $3::bigint + n * $4::bigint / $5 AS ms) t
        CROSS JOIN LATERAL (
            SELECT t.ms, (lpad(to_hex(t.ms), 12, '0') || '7' || substr(md5(n::text), 1, 19))::uuid
        ) AS m(ms, id)
    ), placed AS (
        INSERT INTO orders (id, source, user_id, status, total, currency, email, created_at,
                            updated_at, notified_at)
        SELECT id, 'checkout', 'user-' || n % ($5 / 5), 'delivered', 10, 'EUR',
               md5((n % ($5 / 5))::text) || '@shop.example', at, at, at
        FROM made
    ), items AS (
        INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
        SELECT id, line, 'tea-assam', 'Assam', 1, 5, false FROM made, generate_series(1, 2) line
    ), told AS (
        INSERT INTO notifications (order_id, kind, channel, recipient, claimed_until, sent_at)
        SELECT id, 'order-confirmation', 'email', 'ada@shop.example', at, at FROM made
    )
    INSERT INTO payments (id, order_id, method, amount, currency, status, transaction_id,
                          created_at, updated_at)
    SELECT (substr(id::text, 1, 14) || substr(md5('p' || n), 1, 4) || substr(id::text, 19))::uuid,
           id, 'card', 10, 'EUR', 'completed', 'ch_' || md5('t' || n), at, at
    FROM made
"""

#: The tables that would have partitions, by which of their columns, and their keys. One payment an
#: order, and one id a payment, cannot both be held: a unique index has the partition's column.
_PARTITIONED = {
    "orders": ("id", ("PRIMARY KEY (id)",)),
    "order_items": ("order_id", ("PRIMARY KEY (order_id, line)",)),
    "payments": ("order_id", ("PRIMARY KEY (id, order_id)", "UNIQUE (order_id)")),
    "notifications": ("order_id", ("PRIMARY KEY (order_id, kind, channel)",)),
}
#: As the schema has it for rows that change often; a table does not hand it to its partitions.
_ROOM = dict.fromkeys(("orders", "payments"), " WITH (fillfactor = 80)")
_INDEXES = """
    SELECT regexp_replace(indexdef, ' ON public\\.\\w+', ' ON ' || tablename) AS made
    FROM pg_indexes
    WHERE tablename = ANY($1) AND indexname NOT IN (
        SELECT conname FROM pg_constraint WHERE contype IN ('p', 'u'))
"""
#: Whether rows that are written go into the indexes, too.
_INDEXED = """
    UPDATE pg_index SET indisready = $2
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE indrelid = c.oid AND c.relkind = 'r' AND coalesce(parent.relname, c.relname) = ANY($1)
"""
_VIEW = "SELECT pg_get_viewdef('order_details')"
_SIZES = """
    SELECT sum(pg_table_size(c.oid)) AS tables, sum(pg_indexes_size(c.oid)) AS indexes
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE c.relkind = 'r' AND coalesce(parent.relname, c.relname) = ANY($1)
"""


def _id_at(moment: datetime) -> UUID:
    return UUID(int=int(moment.timestamp() * 1_000) << 80)


async def _partition(sql: Connection, start: datetime) -> None:
    """Put a table with a partition a month in the place of each; all are empty."""
    view = await sql.fetchval(_VIEW)
    indexes = [row["made"] for row in await sql.fetch(_INDEXES, list(_PARTITIONED))]
    for table, (column, keys) in _PARTITIONED.items():
        await sql.execute(
            f"CREATE TABLE new (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) "
            f"PARTITION BY RANGE ({column})"
        )
        await sql.execute(f"DROP TABLE {table} CASCADE")
        await sql.execute(f"ALTER TABLE new RENAME TO {table}")
        for key in keys:
            await sql.execute(f"ALTER TABLE {table} ADD {key}")
        for month in range(_MONTHS + 2):
            begin, end = (_id_at(start + n * _MONTH) for n in (month, month + 1))
            await sql.execute(
                f"CREATE TABLE {table}_{month} PARTITION OF {table} "
                f"FOR VALUES FROM ('{begin}') TO ('{end}'){_ROOM.get(table, '')}"
            )
        # Orders that others made have ids that begin with no time.
        await sql.execute(f"CREATE TABLE {table}_foreign PARTITION OF {table} DEFAULT")
        if table != "orders":
            await sql.execute(f"ALTER TABLE {table} ADD FOREIGN KEY (order_id) REFERENCES orders")
    for made in indexes:
        await sql.execute(made)
    await sql.execute(f"CREATE VIEW order_details AS {view}")


async def _fill(sql: Connection, orders: int, start: datetime) -> None:
    first_ms = int(start.timestamp() * 1_000)
    span_ms = int((_MONTHS * _MONTH).total_seconds() * 1_000)
    # Most of the time would go into looking up for each row that it fits, and into its indexes.
    await sql.execute("SET session_replication_role = replica")
    await sql.fetch(_INDEXED, list(_PARTITIONED), False)
    for first in range(0, orders, _FILL_AT_ONCE):
        last = min(first + _FILL_AT_ONCE, orders) - 1
        await sql.execute(_FILL, first, last, first_ms, span_ms, orders)
    await sql.fetch(_INDEXED, list(_PARTITIONED), True)
    for table in _PARTITIONED:
        await sql.execute(f"REINDEX TABLE {table}")
    await sql.execute("RESET session_replication_role")
    await sql.execute("INSERT INTO products VALUES ('tea-assam', 'Assam', 5, 'EUR', NULL)")
    await sql.execute("VACUUM (ANALYZE)")
    await sql.execute("CHECKPOINT")


def _checkouts() -> list[Sequence[object]]:
    """Return the arguments of `place_orders` for a batch as group commit makes it."""
    lines = json.dumps([["tea-assam", 2], ["tea-assam", 1]])
    rows = [
        (
            *(uuid7(), uuid7(), f"user-{random.randrange(10**6)}", None, None, None, lines),
            *("card", "tok", f"{random.randrange(10**9)}@shop.example", None, None, None),
        )
        for _ in range(_BATCH)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _used_s(postgres: psutil.Process) -> float:
    """Return the CPU that PostgreSQL has used; a process that ended takes its own with it."""
    times = [child.cpu_times() for child in postgres.children()]
    return sum(used.user + used.system for used in times)


async def _cost(
    postgres: psutil.Process, ask: Callable[[], Awaitable[object]], times: int, each: int = 1
) -> str:
    """Return what asking costs PostgreSQL, of `each` of what is asked for at once."""
    took, before = [], _used_s(postgres)
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    cpu_us = (_used_s(postgres) - before) / times / each * 1e6
    return f"{cpu_us:.0f} us of CPU ({statistics.median(took) / each * 1e6:.0f} us by the clock)"


async def _measure(db: Database, sql: Connection, postgres: psutil.Process, name: str) -> None:
    async def place() -> None:
        await db.fetch("place_orders", *_checkouts(), Decimal("9999999999.99"))

    ids = await sql.fetch("SELECT id, user_id FROM orders TABLESAMPLE BERNOULLI (1)")
    users = [row["user_id"] for row in ids]
    placing = await _cost(postgres, place, _BATCHES, _BATCH)
    by_id = await _cost(
        postgres, lambda: db.fetchrow("find_order", random.choice(ids)["id"]), _LOOKS
    )
    by_user = await _cost(
        postgres,
        lambda: db.fetch("list_orders_of_user", None, None, 20, random.choice(users)),
        _LOOKS,
    )
    print(f"{name}: a checkout, in batches of {_BATCH}: {placing}")
    print(f"{name}: look-up by id: {by_id}")
    print(f"{name}: the orders of a user: {by_user}")


async def _show_sizes(sql: Connection, name: str) -> None:
    row = await sql.fetchrow(_SIZES, list(_PARTITIONED))
    if row is not None:
        tables, indexes = (float(row[part]) / 1e6 for part in ("tables", "indexes"))
        print(f"{name}: {tables:,.0f} MB of tables, {indexes:,.0f} MB of indexes")


async def _purge(db: Database, sql: Connection, name: str, start: datetime) -> None:
    """Delete the oldest month as `orderflow purge` does, without the rests, and clean up."""
    before, after, deleted = _id_at(start + _MONTH), UUID(int=0), 0
    statuses = end_statuses(undelivered=False)
    began, longest = time.perf_counter(), 0.0
    while rows := await db.fetch("page_of_orders", after, before, 0, _PURGED_AT_ONCE):
        batch = time.perf_counter()
        after = rows[-1]["id"]
        async with db.transaction() as transaction:
            page = [row["id"] for row in rows]
            found = await transaction.fetch("why_kept", page, 0, statuses)
            ended = [row["id"] for row in found if row["kept"] is None]
            payments = [row["payment_id"] for row in found if row["kept"] is None]
            await transaction.fetch("lock_payments", payments)
            await transaction.fetch("delete_orders", ended, payments)
        deleted += len(ended)
        longest = max(longest, time.perf_counter() - batch)
    deleting = time.perf_counter() - began
    began = time.perf_counter()
    await sql.execute(f"VACUUM {', '.join(_PARTITIONED)}")
    vacuum = time.perf_counter() - began
    each_us = deleting / deleted * 1e6
    print(
        f"{name}: {deleted:,} orders deleted in {deleting:.1f} s, {each_us:.0f} us each, the "
        f"longest batch {longest * 1000:.0f} ms; vacuum {vacuum:.1f} s"
    )


async def _drop(_db: Database, sql: Connection, name: str, _start: datetime) -> None:
    """Drop the oldest month."""
    began = time.perf_counter()
    for table in reversed(_PARTITIONED):
        await sql.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_0")
        await sql.execute(f"DROP TABLE {table}_0")
    print(f"{name}: a month dropped in {(time.perf_counter() - began) * 1000:.0f} ms")


async def _run(server: Server, orders: int, name: str) -> None:
    start = datetime.now(UTC) - _MONTHS * _MONTH
    url = f"{server.url.removesuffix('/postgres')}/{name}"
    postgres = psutil.Process(server.process.pid)
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"CREATE DATABASE {name}")
    await migrate(url)
    sql = await asyncpg.connect(url)
    try:
        if name != "plain":
            await _partition(sql, start)
        began = time.monotonic()
        await _fill(sql, orders, start)
        print(f"{name}: {orders:,} orders of {_MONTHS} months in {time.monotonic() - began:.0f} s")
        async with open_database(url, 2, 600_000) as db:
            await _measure(db, sql, postgres, name)
            await _show_sizes(sql, name)
            await (_purge if name == "plain" else _drop)(db, sql, name, start)
            await _show_sizes(sql, f"{name}, a month less")
    finally:
        await sql.close()
    await admin.execute(f"DROP DATABASE {name}")
    await admin.close()


def main() -> None:
    """Measure, and print what was found."""
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with open_folder() as folder, open_postgres(folder / "postgres") as server:
        for name in ("plain", "partitioned"):
            asyncio.run(_run(server, orders, name))


if __name__ == "__main__":
    main()
