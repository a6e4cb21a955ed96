"""The rows of a shop that was open for a while, and of orders that wait for their workers.

All are written by few statements, in the database: what a benchmark measures begins after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg

PRODUCTS = 1_000
STOCK = 1_000_000_000
#: So many orders at a time, for a sign of life.
_CHUNK = 250_000

_CATALOGUE = """
INSERT INTO products (sku, name, price, currency, stock)
SELECT 'sku-' || lpad(n::text, 4, '0'), 'Product ' || n, (500 + n * 7 % 9000) / 100.0, 'EUR', $2
FROM generate_series(1, $1::integer) n
"""

#: Two lines each, as the checkouts of the load. Ids are those of UUIDv7, as orderflow makes them.
_NEW_ORDERS = f"""
CREATE TEMPORARY TABLE fresh ON COMMIT DROP AS
SELECT
    n, uuidv7() AS id, uuidv7() AS payment_id, 'user-' || n % 200 AS user_id,
    a.sku AS sku_1, a.name AS name_1, a.price AS price_1,
    b.sku AS sku_2, b.name AS name_2, b.price AS price_2,
    a.price + 2 * b.price AS total
FROM generate_series(1, $1::integer) n
JOIN products a ON a.sku = 'sku-' || lpad((n % {PRODUCTS} + 1)::text, 4, '0')
JOIN products b ON b.sku = 'sku-' || lpad(((n + 500) % {PRODUCTS} + 1)::text, 4, '0')
"""

#: As the API writes it.
_ADDRESS = """'{"name": "Ada Lovelace", "line1": "12 St James''s Square", "line2": null,
    "postalCode": "SW1Y 4JH", "city": "London", "region": null, "country": "GB"}'::jsonb"""

_ITEMS = """
INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
SELECT id, 1, sku_1, name_1, 1, price_1, true FROM fresh
UNION ALL
SELECT id, 2, sku_2, name_2, 2, price_2, true FROM fresh
"""

_KEYS = """
INSERT INTO idempotency_keys (user_id, key, fingerprint, answer, expires_at)
SELECT user_id, replace(gen_random_uuid()::text, '-', ''), sha256(id::text::bytea),
    jsonb_build_object('orderId', id, 'paymentId', payment_id, 'status', 'pending',
                       'total', total::text, 'currency', 'EUR'),
    now() + make_interval(secs => 43200 + random() * 43200)
FROM fresh
"""

_SETTLED = (
    f"""
    INSERT INTO orders (id, source, user_id, status, total, currency, email, shipping_address,
                        notified_at)
    SELECT id, 'checkout', user_id, 'confirmed', total, 'EUR', 'ada@shop.example', {_ADDRESS}, now()
    FROM fresh
    """,
    _ITEMS,
    """
    INSERT INTO payments (id, order_id, method, amount, currency, status, transaction_id)
    SELECT payment_id, id, 'card', total, 'EUR', 'completed', 'ch_' || payment_id FROM fresh
    """,
    _KEYS,
    """
    INSERT INTO notifications (order_id, kind, channel, recipient, claimed_until, sent_at,
                               reference)
    SELECT id, 'order-confirmation', 'email', 'ada@shop.example', now(), now(),
        'order-confirmation.' || id
    FROM fresh
    """,
)

_PENDING = (
    f"""
    INSERT INTO orders (id, source, user_id, status, total, currency, email, shipping_address)
    SELECT id, 'checkout', user_id, 'pending', total, 'EUR', 'ada@shop.example', {_ADDRESS}
    FROM fresh
    """,
    _ITEMS,
    """
    INSERT INTO payments (id, order_id, method, token, amount, currency, status)
    SELECT payment_id, id, 'card', 'tok_approve', total, 'EUR', 'pending' FROM fresh
    """,
    _KEYS,
)


_PAID = (
    """
    UPDATE payments SET status = 'completed', token = NULL, transaction_id = 'recorded-' || id
    WHERE status = 'pending'
    """,
    "UPDATE orders SET status = 'confirmed' WHERE status = 'pending'",
)


def open_shop(url: str, orders: int) -> None:
    """Fill an empty schema with products, all counted, and orders that are over."""

    async def run(connection: asyncpg.Connection[Any]) -> None:
        await connection.execute(_CATALOGUE, PRODUCTS, STOCK)
        await _write(connection, orders, _SETTLED)

    asyncio.run(_with(url, run))


def add_settled_orders(url: str, orders: int, tell: Callable[[str], None]) -> None:
    """Add orders that are over, and say how it goes."""

    async def run(connection: asyncpg.Connection[Any]) -> None:
        written = 0
        while written < orders:
            count = min(_CHUNK, orders - written)
            await _write(connection, count, _SETTLED)
            written += count
            tell(f"{written:,} of {orders:,} orders are written")

    asyncio.run(_with(url, run))


def add_pending_orders(url: str, orders: int) -> list[asyncpg.Record]:
    """Add orders whose payment job is still to come; return their ids and amounts."""

    async def run(connection: asyncpg.Connection[Any]) -> list[asyncpg.Record]:
        await _write(connection, orders, _PENDING)
        return list(
            await connection.fetch(
                "SELECT id, order_id, method, amount FROM payments WHERE status = 'pending'"
            )
        )

    return asyncio.run(_with(url, run))


def add_paid_orders(url: str, orders: int) -> list[UUID]:
    """Add orders that are paid, and whose customers are still to be told; return their ids."""

    async def run(connection: asyncpg.Connection[Any]) -> list[UUID]:
        await _write(connection, orders, (*_PENDING, *_PAID))
        rows = await connection.fetch("SELECT id FROM orders WHERE notified_at IS NULL")
        return [row["id"] for row in rows]

    return asyncio.run(_with(url, run))


async def _write(
    connection: asyncpg.Connection[Any], orders: int, statements: tuple[str, ...]
) -> None:
    async with connection.transaction():
        # The rows are right as they are made: their references need no check, which takes longest.
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(_NEW_ORDERS, orders)
        for statement in statements:
            await connection.execute(statement)


async def _with(url: str, work: Callable[[asyncpg.Connection[Any]], Any]) -> Any:
    connection = await asyncpg.connect(url)
    try:
        done = await work(connection)
        # Plans are made for tables of this size, as in a shop that is open for a while.
        await connection.execute("VACUUM ANALYZE")
        return done
    finally:
        await connection.close()
