"""Reads at a replica, which show all that was committed when they were asked for.

The primary is asked how far its log is, once for all reads of a turn of the event loop, and a
replica that has replayed that much shows whatever was answered to anybody before. So a read goes
back behind no other, whichever process took the write. One that would have to wait for longer
than DATABASE_REPLICA_LAG_MS is done at the primary, and so is all else for as long as the replica
is away, too far behind, or not a replica of the primary at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import nan
from typing import Any, cast

import asyncpg
import structlog

from orderflow.db.pool import QUERIES, Connection, Database, open_database
from orderflow.db.reads import Reads, ReplicaHealth, sure
from orderflow.errors import DatabaseRefused, DatabaseUnavailable, NotOurReplica, ReplicaBehind
from orderflow.metrics import READS, REPLICA_LAG, REPLICA_USED
from orderflow.orders import Row
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

#: How often it is seen how far behind the replica is, and whether it can be used again.
_LOOK_EVERY_S = 1.0
#: Between two looks at a replica that is not there yet: at first, and at most.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02

#: After these reads go to the primary, until the replica was looked at again.
_NO_USE = (DatabaseUnavailable, NotOurReplica, ReplicaBehind)


class Replica(Database):
    """The pool of the replica."""

    async def fetch_at(
        self, position: str, patience_s: float, query: str, *args: Any
    ) -> list[asyncpg.Record]:
        """Run the named query once all up to `position` is replayed, and return its rows.

        Raises ReplicaBehind after `patience_s`, and what Database raises.
        """
        async with self._for_a_statement() as connection:
            # On the connection that reads: several replicas may share the address.
            await reach(connection, position, patience_s)
            return await connection.fetch(QUERIES[query], *args)


async def reach(
    connection: asyncpg.Connection[asyncpg.Record] | Connection, position: str, patience_s: float
) -> None:
    """Wait until all up to `position` is replayed. Raises ReplicaBehind after `patience_s`."""
    ends_at = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while not await connection.fetchval(QUERIES["has_replayed"], position):
        if time.monotonic() + pause_s > ends_at:
            age_s = await connection.fetchval(QUERIES["replayed_age"])
            raise ReplicaBehind(behind_s=max(patience_s, age_s or 0.0))
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class ReplicaReads(Reads):
    """Runs queries at the replica, or at the primary where that would be wrong or slow."""

    def __init__(self, primary: Database, replica: Replica, patience_s: float) -> None:
        super().__init__()
        self._primary = primary
        self._replica = replica
        self._patience_s = patience_s
        #: Not used before it was looked at.
        self.replica: ReplicaHealth = ReplicaHealth(None, "it was not looked at yet")
        for server in ("primary", "replica"):
            READS.begin(server)

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        rows = await self._at_replica(query, *args) if self.replica.is_used else None
        READS["primary" if rows is None else "replica",] += 1
        return await self._primary.fetch(query, *args) if rows is None else rows

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def watch(self) -> None:
        """Look at the replica again and again, until cancelled."""
        while True:
            # While the primary is away, nothing is said of a replica that cannot be compared to it.
            with suppress(DatabaseUnavailable, DatabaseRefused):
                self._note(await self._look())
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _at_replica(self, query: str, *args: Any) -> list[asyncpg.Record] | None:
        """Return the rows, or None if the primary is to be asked."""
        position = await self._position()
        try:
            return await self._replica.fetch_at(position, self._patience_s, query, *args)
        except DatabaseRefused:
            # One query that a replica ends, since it held up the replay, says nothing of the next.
            return None
        except _NO_USE as error:
            self._note(_health(error))
            return None

    async def _look(self) -> ReplicaHealth:
        """Return how the replica is. Raises what the primary does."""
        position = await self._position()
        began = time.monotonic()
        try:
            await self._replica.fetch_at(position, self._patience_s, "replayed_age")
        except (DatabaseRefused, *_NO_USE) as error:
            return _health(error)
        return ReplicaHealth(time.monotonic() - began, None)

    async def _position(self) -> str:
        """Return how far the primary's log is by now."""
        row = sure(await self._primary.batch("wal_position", 0, apart=object()))
        position: str = row["position"]
        return position

    def _note(self, health: ReplicaHealth) -> None:
        before, self.replica = self.replica, health
        if health.trouble is not None and health.trouble != before.trouble:
            log.warning("reads go to the primary", reason=health.trouble)
        elif health.is_used and not before.is_used:
            log.info("reads go to the replica")


def _health(error: Exception) -> ReplicaHealth:
    if isinstance(error, ReplicaBehind):
        return ReplicaHealth(error.behind_s, "the replica is too far behind")
    return ReplicaHealth(None, str(error).rstrip("."))


@asynccontextmanager
async def open_reads(
    settings: Settings, primary: Database, kind: type[Replica] = Replica
) -> AsyncIterator[Reads]:
    """Give what reads at DATABASE_REPLICA_URL, or without one the primary itself."""
    dsn = settings.database_replica_dsn
    if dsn is None:
        yield primary
        return

    async def greet(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        ours = sure(await primary.fetchrow("server_identity"))
        theirs = sure(await connection.fetchrow(QUERIES["server_identity"]))
        if wrong := wrong_replica(ours, theirs):
            raise NotOurReplica(what=wrong)

    async with open_database(
        dsn,
        settings.database_pool_size,
        settings.database_timeout_ms,
        kind,
        pooled=settings.database_is_pooled,
        greet=greet,
    ) as replica:
        patience_s = settings.database_replica_lag_ms / 1000
        reads = ReplicaReads(primary, cast("Replica", replica), patience_s)
        watch = asyncio.create_task(reads.watch(), name="replica")
        try:
            with (
                REPLICA_LAG.of(lambda: _or_nan(reads.replica.behind_s)),
                REPLICA_USED.of(lambda: reads.replica.is_used),
            ):
                yield reads
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


def wrong_replica(ours: Row, theirs: Row) -> str | None:
    """Say what the server is that should be a replica of ours, by `server_identity` of both."""
    if not theirs["is_replica"]:
        return "a server that is no replica"
    if theirs["system_identifier"] != ours["system_identifier"]:
        return "a replica of another server"
    if theirs["database"] != ours["database"]:
        return f"the database {theirs['database']}, and DATABASE_URL to {ours['database']}"
    return None


def _or_nan(value: float | None) -> float:
    return nan if value is None else value
