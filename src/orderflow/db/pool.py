"""A pool of PostgreSQL connections on which statements run by their name."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias

import asyncpg

from orderflow.db.hosts import connect_to
from orderflow.db.pooler import SHARED_SESSION, SharedSession, refuse_shared_session
from orderflow.db.queries import load_queries
from orderflow.db.reads import Reads
from orderflow.errors import DatabaseRefused, DatabaseUnavailable
from orderflow.metrics import POOL_IDLE, POOL_MAX, POOL_SIZE, POOL_WAITING

QUERIES = load_queries()

#: What asyncpg raises when PostgreSQL is away, starting, stopping, full, too slow or a standby.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a statement meets whose connection is just being lost
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)


#: Every statement finds its rows by their keys. A plan made while a table was small would read
#: all of it instead, and PostgreSQL keeps a plan until its statistics are new: on a shop's first
#: day that is minutes too late. For the same reason each table in a batch is asked for its rows
#: by `= ANY(array of keys)`, which no other index can answer.
BY_KEY = {"enable_seqscan": "off", "enable_mergejoin": "off"}
#: The same for one transaction, where the session is not ours alone.
_BY_KEY_NOW = "; ".join(f"SET LOCAL {name} = {value}" for name, value in BY_KEY.items())

#: Parsed and planned statements that a session of our own keeps: as many as asyncpg means it to.
_STATEMENTS_KEPT = 100

Greet = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except _AWAY as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise DatabaseUnavailable(reason=f"its certificate, {error.verify_message}") from error
        # asyncpg's complaints about our own arguments are InterfaceErrors too: those are bugs.
        if isinstance(error, ValueError):
            raise
        if "startup parameter" in str(error):
            raise DatabaseUnavailable(reason=SHARED_SESSION) from None
        raise DatabaseUnavailable(reason=type(error).__name__) from error
    except SharedSession:
        raise DatabaseUnavailable(reason=SHARED_SESSION) from None
    except asyncpg.PostgresError as error:
        # Its text may show a whole row, a customer's address with it, and an error's text ends in
        # logs and in jobs: the rule that was broken is all that goes on.
        rule = error.constraint_name or error.sqlstate
        raise DatabaseRefused(reason=f"{type(error).__name__}, {rule}", rule=rule) from None


class Transaction:
    """One connection inside a transaction: all of its statements commit, or none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        return await self._connection.fetch(QUERIES[query], *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        return await self._connection.fetchrow(QUERIES[query], *args)

    async def rest(self) -> None:
        """Let go of the last query's snapshot, in a transaction that now stays open for long.

        While any snapshot is held, no row that was updated since can be cleared away, and every
        look at the newest version has to pass by all of the older ones.
        """
        # The portal of a query keeps it until the next one takes its place. A query by itself,
        # without a Bind, ends its portal at once.
        await self._connection.execute("SELECT")


class Database(Reads):
    """The pool."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], timeout_s: float, *, pooled: bool = False
    ) -> None:
        super().__init__()
        self._pool = pool
        self._timeout_s = timeout_s
        #: Whether a pooler gives each transaction another session.
        self._pooled = pooled
        #: Statements and transactions that have a connection or wait for one.
        self.users = 0

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        async with self._for_a_statement() as connection:
            return await connection.fetch(QUERIES[query], *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        async with self._for_a_statement() as connection:
            return await connection.fetchrow(QUERIES[query], *args)

    async def ping(self) -> None:
        """Return when PostgreSQL answers."""
        async with self._for_a_statement() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Give a transaction that commits on leaving, or rolls back on an error."""
        self.users += 1
        try:
            with _in_our_words():
                async with (
                    self._pool.acquire(timeout=self._timeout_s) as connection,
                    connection.transaction(),
                ):
                    if self._pooled:
                        await connection.execute(_BY_KEY_NOW)
                    yield Transaction(connection)
        finally:
            self.users -= 1

    @asynccontextmanager
    async def _for_a_statement(self) -> AsyncIterator[Connection]:
        """Give a connection; the wait for it and its use end together after the time-out."""
        self.users += 1
        try:
            with _in_our_words():
                async with (
                    asyncio.timeout(self._timeout_s) as deadline,
                    self._pool.acquire() as connection,
                ):
                    try:
                        if self._pooled:
                            async with _by_key(connection):
                                yield connection
                        else:
                            yield connection
                    except asyncio.CancelledError:
                        # asyncpg would ask PostgreSQL to cancel, and wait for that as long again.
                        # And no transaction may be left open.
                        if deadline.expired() or self._pooled:
                            connection.terminate()
                        raise
        finally:
            self.users -= 1


@asynccontextmanager
async def _by_key(connection: Connection) -> AsyncIterator[None]:
    """Be in a transaction that plans by key: behind a pooler no setting outlives one.

    Who is cancelled inside has to end the connection.
    """
    await connection.execute(f"BEGIN; {_BY_KEY_NOW}")
    try:
        yield
    except Exception:
        await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


@asynccontextmanager
async def open_database(
    dsn: str,
    size: int,
    timeout_ms: int,
    kind: type[Database] = Database,
    *,
    pooled: bool = False,
    greet: Greet | None = None,
) -> AsyncIterator[Database]:
    """Give a pool of at most `size` connections, closed on leaving.

    No connection is made yet, so that a process starts while PostgreSQL is away. `timeout_ms`
    bounds a statement with the wait for a connection, and each step of a transaction. `pooled` says
    that a pooler in transaction mode is in between. What `greet` raises refuses a new connection.
    """
    timeout_s = timeout_ms / 1000

    async def init(connection: Any) -> None:
        if not pooled:
            await refuse_shared_session(connection)
        await _use_json(connection)
        if greet is not None:
            await greet(connection)

    connect: Any = connect_to(dsn, timeout_s)
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        connect=connect,
        command_timeout=timeout_s,
        init=init,
        reset=_keep_session,
        server_settings={"application_name": "orderflow"} | ({} if pooled else BY_KEY),
        # What is parsed in a session that is shared may be missing in the next.
        statement_cache_size=0 if pooled else _STATEMENTS_KEPT,
    )
    async with _open(pool):
        db = kind(pool, timeout_s, pooled=pooled)
        with _shown(pool, db):
            yield db


@asynccontextmanager
async def _open(pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[None]:
    """Open a pool, and close it on leaving: whatever PostgreSQL says to that, all work is done."""
    await pool
    try:
        yield
    finally:
        # asyncpg has ended all connections then.
        with suppress(*_AWAY):
            await pool.close()


@contextmanager
def _shown(pool: asyncpg.Pool[asyncpg.Record], db: Database) -> Iterator[None]:
    """Show the state of the pool while inside."""

    def waiting() -> int:
        in_use = pool.get_size() - pool.get_idle_size()
        return max(0, db.users - in_use)

    with (
        POOL_SIZE.of(pool.get_size),
        POOL_MAX.of(pool.get_max_size),
        POOL_IDLE.of(pool.get_idle_size),
        POOL_WAITING.of(waiting),
    ):
        yield


async def _keep_session(_connection: Any) -> None:
    """Do nothing as a connection goes back: no statement of ours leaves anything in its session.

    asyncpg would spend a round trip on it.
    """


async def _use_json(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
