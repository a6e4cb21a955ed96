"""What the database refuses, and what the pool says when PostgreSQL is away."""

from __future__ import annotations

import asyncio
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from orderflow.db import open_database
from orderflow.db.migrate import migrate
from orderflow.errors import DatabaseRefused, DatabaseUnavailable
from orderflow.orders import ORDER_TRANSITIONS, PAYMENT_TRANSITIONS
from orderflow.sandbox.servers import Server, free_port, start_postgres

IMPOSSIBLE = {
    "an order status nobody knows": "UPDATE orders SET status = 'lost'",
    "a payment status nobody knows": "UPDATE payments SET status = 'lost'",
    "a negative total": "UPDATE orders SET total = -1",
    "a negative amount": "UPDATE payments SET amount = -0.01",
    "a negative stock": "UPDATE products SET stock = -1",
    "a second payment of one order": """
        INSERT INTO payments (id, order_id, method, amount, currency, status)
        SELECT gen_random_uuid(), order_id, 'card', 1, 'EUR', 'pending' FROM payments""",
    "money taken without a transaction": "UPDATE payments SET status = 'completed'",
    "a failure without a reason": "UPDATE payments SET status = 'failed'",
    "a customer told before the end": "UPDATE orders SET notified_at = now()",
    "a checkout without a customer": "UPDATE orders SET user_id = NULL",
    "a quantity of none": "UPDATE order_items SET quantity = 0",
    "an unknown currency": "UPDATE orders SET currency = 'euro'",
    "a payment of no order": """
        INSERT INTO payments (id, order_id, method, amount, currency, status)
        VALUES (gen_random_uuid(), gen_random_uuid(), 'card', 1, 'EUR', 'pending')""",
    "an unknown way to pay": "UPDATE payments SET method = 'barter'",
}


@pytest.mark.parametrize("statement", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_what_must_never_be_is_refused(place, sql, statement):
    await place()
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await sql.execute(statement)


async def test_the_statuses_of_the_code_are_those_of_the_database(place, sql):
    await place()
    await sql.execute("UPDATE payments SET transaction_id = 't', decline_reason = 'r'")
    for status in ORDER_TRANSITIONS:
        await sql.execute("UPDATE orders SET status = $1", status.value)
    for status in PAYMENT_TRANSITIONS:
        await sql.execute("UPDATE payments SET status = $1", status.value)


async def test_a_status_update_stays_on_its_page(place, sql):
    for _ in range(5):
        await place()
    for status in ("processing", "confirmed"):
        await sql.execute("UPDATE orders SET status = $1, updated_at = now()", status)
    await sql.execute("SELECT pg_stat_force_next_flush()")
    updates = await sql.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'orders'"
    )
    assert updates["n_tup_upd"] == 10
    assert updates["n_tup_hot_upd"] == 10


async def test_migrations_of_many_at_once_run_once(postgres_server, sql):
    await sql.execute("CREATE DATABASE fresh TEMPLATE template0")
    url = postgres_server.url.removesuffix("/postgres") + "/fresh"
    ran = await asyncio.gather(*(migrate(url) for _ in range(5)))
    (newest,) = {after for _, after in ran}
    assert sorted(before or "nothing" for before, _ in ran) == [*[newest] * 4, "nothing"]
    await sql.execute("DROP DATABASE fresh WITH (FORCE)")


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Stop all processes of PostgreSQL, as a machine does whose disk hangs."""
    main = psutil.Process(server.process.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def ping_for_ever(db):
    while True:
        await db.ping()


async def test_a_database_that_is_away_is_told_and_comes_back():
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    async with open_database(url, size=2, timeout_ms=2_000) as db:
        with pytest.raises(DatabaseUnavailable, match="ConnectionRefusedError"):
            await db.ping()
        with tempfile.TemporaryDirectory(prefix="orderflow-postgres-") as folder:
            server = start_postgres(Path(folder), port, {"fsync": "off"})
            try:
                await db.ping()
                with frozen(server):
                    began = time.monotonic()
                    with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                        await db.ping()
                    # Not the time-out twice: once for the statement, once for its cancellation.
                    assert time.monotonic() - began < 3.5
                await db.ping()
                server.kill()
                # A backend may answer once more before it sees that its parent has gone.
                with pytest.raises(DatabaseUnavailable):
                    await asyncio.wait_for(ping_for_ever(db), 30)
                server = start_postgres(Path(folder), port, {"fsync": "off"})
                await db.ping()
            finally:
                server.stop()


async def test_a_database_that_hangs_does_not_turn_an_end_into_a_fault():
    with tempfile.TemporaryDirectory(prefix="orderflow-postgres-") as folder, ExitStack() as stack:
        server = start_postgres(Path(folder), free_port(), {"fsync": "off"})
        stack.callback(server.stop)
        async with open_database(server.url, size=1, timeout_ms=500) as db:
            await db.ping()
            stack.enter_context(frozen(server))


async def test_a_wait_for_a_connection_ends(settings):
    async with open_database(settings.database_dsn, size=1, timeout_ms=200) as db:
        async with db.transaction():
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                await db.ping()
        await db.ping()


async def test_an_error_does_not_show_the_row(resources, place):
    receipt = await place()
    with pytest.raises(DatabaseRefused, match="CheckViolationError, told_only_of") as refused:
        await resources.db.fetchrow("mark_notified", receipt.order_id)
    said = "".join(traceback.format_exception(refused.value))
    assert "ada@shop.example" not in said
