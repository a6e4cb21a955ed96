"""A pool of PostgreSQL connections on which statements run by their name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from orderflow.db.queries import load_queries
from orderflow.errors import DatabaseRefused, DatabaseUnavailable

QUERIES = load_queries()

#: What asyncpg raises when PostgreSQL is away, starting, stopping, full, too slow or a standby.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except _AWAY as error:
        # asyncpg's complaints about our own arguments are InterfaceErrors too: those are bugs.
        if isinstance(error, ValueError):
            raise
        raise DatabaseUnavailable(reason=type(error).__name__) from error
    except asyncpg.PostgresError as error:
        # Its text may show a whole row, a customer's address with it, and an error's text ends in
        # logs and in jobs: the rule that was broken is all that goes on.
        rule = error.constraint_name or error.sqlstate
        raise DatabaseRefused(reason=f"{type(error).__name__}, {rule}") from None


class Transaction:
    """One connection inside a transaction: all of its statements commit, or none."""

    def __init__(self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        return await self._connection.fetch(QUERIES[query], *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        return await self._connection.fetchrow(QUERIES[query], *args)


class Database:
    """The pool.

    Every method raises DatabaseUnavailable when PostgreSQL is away, and DatabaseRefused when it
    answers with an error.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        async with self._connection() as connection:
            return await connection.fetch(QUERIES[query], *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        async with self._connection() as connection:
            return await connection.fetchrow(QUERIES[query], *args)

    async def ping(self) -> None:
        """Return when PostgreSQL answers."""
        async with self._connection() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Give a transaction that commits on leaving, or rolls back on an error."""
        async with self._connection() as connection, connection.transaction():
            yield Transaction(connection)

    @asynccontextmanager
    async def _connection(
        self,
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        with _in_our_words():
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                yield connection


@asynccontextmanager
async def open_database(dsn: str, size: int, timeout_ms: int) -> AsyncIterator[Database]:
    """Give a pool of at most `size` connections, closed on leaving.

    No connection is made yet, so that a process starts while PostgreSQL is away. `timeout_ms`
    bounds each wait for a connection, to connect, and for a statement.
    """
    timeout_s = timeout_ms / 1000
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=timeout_s,
        command_timeout=timeout_s,
        init=_use_json,
        server_settings={"application_name": "orderflow"},
    )
    async with pool:
        yield Database(pool, timeout_s)


async def _use_json(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
