"""Bring the schema of a database up to date."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from orderflow.errors import DatabaseUnavailable

#: Held while migrating, so that of many processes that start at once only one does it.
_MIGRATION_LOCK = 6_811_073_201


async def migrate(dsn: str) -> tuple[str | None, str]:
    """Run the steps that are missing; return the revision before and after.

    Raises DatabaseUnavailable when PostgreSQL cannot be reached.
    """
    engine = create_async_engine(
        # asyncpg reads the URL itself, so that it means here what it means to the pool.
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(dsn),
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_upgrade)
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(reason=f"{type(error).__name__}: {error}") from None
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    before = MigrationContext.configure(connection).get_current_revision()
    command.upgrade(config, "head")
    connection.commit()
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise RuntimeError("the package has no migrations")
    return before, head
