"""Through a PgBouncer in transaction mode, which has two sessions for whoever comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from tests.integration import reconciling
from tests.integration.conftest import checkout_body
from tests.integration.life import charge
from tests.pgbouncer import SESSIONS, running_pgbouncer

from orderflow.checkout import place_order
from orderflow.checkout_body import Checkout
from orderflow.db import Database, open_database
from orderflow.db.migrate import migrate
from orderflow.db.pool import QUERIES
from orderflow.doctor import Severity, examine
from orderflow.errors import DatabaseRefused, DatabaseUnavailable, PoolerInTheWay
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import Server
from orderflow.setting_types import PostgresUrl
from orderflow.settings import Settings

#: What one sets who wants to be let through at any price.
IGNORES = "ignore_startup_parameters = enable_seqscan, enable_mergejoin"
SAID = "a pooler is in between: set DATABASE_POOLER=transaction"


@pytest.fixture(scope="module")
def pooler(postgres_server: Server) -> Iterator[str]:
    with running_pgbouncer(postgres_server) as url:
        yield url


@pytest.fixture
def through(settings: Settings, pooler: str) -> Settings:
    """Settings whose database is reached by the pooler."""
    return settings.model_copy(
        update={
            "database_url": PostgresUrl(_by(pooler, settings)),
            "database_pooler": "transaction",
            "database_timeout_ms": 10_000,
        }
    )


def _by(pooler: str, settings: Settings) -> str:
    return f"{pooler}/{settings.database_dsn.rpartition('/')[2]}"


@asynccontextmanager
async def many(settings: Settings, count: int) -> AsyncIterator[list[Resources]]:
    """Give what so many processes open."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_resources(settings)) for _ in range(count)]


async def _sessions(sql: asyncpg.Connection[asyncpg.Record]) -> int:
    count: int = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return count


async def test_orders_of_many_processes_are_placed_and_paid_on_two_sessions(
    resources, through, sql
):
    assert resources
    outside = await _sessions(sql)
    async with many(through, 4) as processes:

        async def order(number: int) -> None:
            mine, other = processes[number % 4], processes[(number + 1) % 4]
            receipt = await place_order(
                Checkout.model_validate(checkout_body()),
                f"user-{number}",
                None,
                db=mine.db,
                queues=mine.queues,
            )
            assert (await charge(other, receipt))["success"]

        await asyncio.gather(*map(order, range(40)))
        assert await _sessions(sql) - outside <= SESSIONS
    assert await sql.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'") == 40


async def test_plans_go_by_key_and_nothing_is_left_in_a_session(
    resources, through, monkeypatch, settings
):
    assert resources
    # Of a table as small as this one, all is read unless a plan may not.
    monkeypatch.setitem(QUERIES, "plan", "EXPLAIN SELECT * FROM products WHERE sku > $1")
    dsn, ms = through.database_dsn, through.database_timeout_ms
    async with (
        open_database(settings.database_dsn, 4, ms) as direct,
        open_database(dsn, 4, ms, pooled=True) as db,
    ):
        plans = [await _plan(database) for database in (direct, db)]
        async with db.transaction() as transaction:
            plans.append(str(await transaction.fetch("plan", "a")))
        assert all("Seq Scan" not in plan and "products_pkey" in plan for plan in plans), plans

        async def look() -> set[str]:
            stranger = await asyncpg.connect(dsn, statement_cache_size=0)
            try:
                async with stranger.transaction():
                    await asyncio.sleep(0.01)
                    return {
                        await stranger.fetchval("SHOW enable_seqscan"),
                        str(await stranger.fetchval("SELECT count(*) FROM pg_prepared_statements")),
                    }
            finally:
                await stranger.close()

        await asyncio.gather(*(_plan(db) for _ in range(8)))
        assert await asyncio.gather(*(look() for _ in range(SESSIONS))) == [{"on", "0"}] * SESSIONS


async def _plan(db: Database) -> str:
    return str(await db.fetch("plan", "a"))


async def test_what_fails_leaves_no_transaction_open(resources, through, place, monkeypatch):
    receipt = await place()
    monkeypatch.setitem(QUERIES, "sleep", "SELECT pg_sleep(30)")
    async with open_database(through.database_dsn, SESSIONS, 500, pooled=True) as db:
        with pytest.raises(DatabaseRefused, match="told_only_of"):
            await db.fetchrow("mark_notified", receipt.order_id)
        for _ in range(SESSIONS + 1):
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                await db.fetch("sleep")
        given_up = asyncio.create_task(db.fetch("sleep"))
        await asyncio.sleep(0.05)
        given_up.cancel()
    async with open_database(through.database_dsn, 2, 10_000, pooled=True) as db:
        assert (await db.fetchrow("find_order", receipt.order_id))["status"] == "pending"
    assert resources


async def test_one_reconciler_runs_at_a_time(resources, through, place):
    await place()
    assert resources
    async with many(through, 2) as (one, other):

        async def run(process: Resources) -> bool:
            return not (await reconciling.run(process)).another_runs

        async with one.db.transaction() as transaction:
            assert (await transaction.fetchrow("lock_reconciler"))["mine"]
            assert not await run(other)
        assert await run(other)
        assert await run(one)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pooler_that_is_not_told_of_is_named_and_not_worked_through(
    mode, postgres_server, settings
):
    with running_pgbouncer(postgres_server, mode=mode, more=IGNORES) as pooler:
        await _is_named(_by(pooler, settings), settings)


async def test_a_pooler_that_refuses_our_settings_is_named(pooler, settings):
    await _is_named(_by(pooler, settings), settings)


async def _is_named(url: str, settings: Settings) -> None:
    async with open_database(url, 2, 10_000) as db:
        for ask in (db.ping(), db.fetch("products_on_show", 1)):
            with pytest.raises(DatabaseUnavailable, match=SAID):
                await ask
    with pytest.raises(PoolerInTheWay):
        await migrate(url)
    wrong = settings.model_copy(update={"database_url": PostgresUrl(url)})
    [finding] = await _findings("postgres-pooler", wrong)
    assert finding.severity is Severity.ERROR
    assert "DATABASE_POOLER=transaction" in finding.fix


async def test_the_doctor_compares_the_setting_with_what_is_there(through, settings):
    [well] = await _findings("postgres-pooler", through)
    assert (well.severity, well.message) == (Severity.OK, "A pooler is in between")
    needless = settings.model_copy(update={"database_pooler": "transaction"})
    [finding] = await _findings("postgres-pooler", needless)
    assert (finding.severity, finding.fix) == (Severity.WARNING, "Leave DATABASE_POOLER empty")


async def _findings(check: str, settings: Settings) -> list:
    return [finding for finding in await examine(settings) if finding.check == check]
