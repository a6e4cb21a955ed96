"""Bring the schema of a database up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from orderflow.db.pooler import is_pooled
from orderflow.errors import DatabaseUnavailable, PoolerInTheWay

#: Held while migrating, so that of many processes that start at once only one does it.
_MIGRATION_LOCK = 6_811_073_201
_ASK_AGAIN_S = 0.1


async def migrate(dsn: str) -> tuple[str | None, str]:
    """Run the steps that are missing; return the revision before and after.

    Each step commits by itself. Raises DatabaseUnavailable when PostgreSQL cannot be reached, and
    PoolerInTheWay when something else answers in its place.
    """
    engine = create_async_engine(
        # asyncpg reads the URL itself, so that it means here what it means to the pool.
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(dsn),
        poolclass=NullPool,
    )
    try:
        async with _alone(dsn), engine.connect() as connection:
            return await connection.run_sync(_upgrade)
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(reason=f"{type(error).__name__}: {error}") from None
    finally:
        await engine.dispose()


@asynccontextmanager
async def _alone(dsn: str) -> AsyncIterator[None]:
    """Be the only one that migrates, on a connection of its own; its end lets the next one in."""
    connection = await asyncpg.connect(dsn)
    try:
        if await is_pooled(connection):
            # The lock would be left in a session that is another's next.
            raise PoolerInTheWay
        await _lock(connection)
        yield
    finally:
        await connection.close()


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait for the lock by asking for it: to be waiting in PostgreSQL is to hold a snapshot.

    The building of an index beside others' work waits for all of those to end.
    """
    while True:
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", _MIGRATION_LOCK):
            return
        await asyncio.sleep(_ASK_AGAIN_S)


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    before = MigrationContext.configure(connection).get_current_revision()
    # The look began a transaction, and an index is not built beside others' work in one.
    connection.rollback()
    command.upgrade(config, "head")
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise RuntimeError("the package has no migrations")
    return before, head
