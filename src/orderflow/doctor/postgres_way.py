"""What the doctor looks at on the way to PostgreSQL: who answers there, and who else may come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
from redis.exceptions import RedisError

from orderflow.bull.fleet import connected_workers
from orderflow.bull.queues import open_queues
from orderflow.db.hosts import connect_to
from orderflow.db.pool import QUERIES
from orderflow.db.pooler import is_pooled
from orderflow.db.reads import sure
from orderflow.db.replica import reach, wrong_replica
from orderflow.doctor.findings import (
    PATIENCE_MS,
    Findings,
    fail,
    ok,
    reason_of,
    unreadable,
    warn,
)
from orderflow.errors import ReplicaBehind
from orderflow.orders import Row
from orderflow.settings import Settings

PATIENCE_S = PATIENCE_MS / 1000
#: What a client of PostgreSQL raises when it is away.
AWAY = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)

#: Those of the exporter and a command of an operator.
_CONNECTIONS_OF_OTHERS = 6


@dataclass(frozen=True, slots=True)
class PostgresSite:
    """What the checks of PostgreSQL look at; `facts` are settings of the server by name."""

    connection: asyncpg.Connection[asyncpg.Record]
    facts: Mapping[str, str]
    settings: Settings


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """Connect in a way that any pooler in between can do. Raises what asyncpg does."""
    connection: asyncpg.Connection[asyncpg.Record] = await connect_to(dsn, PATIENCE_S)(
        dsn, command_timeout=PATIENCE_S, statement_cache_size=0
    )
    return connection


async def postgres_primary(site: PostgresSite) -> Findings:
    """Say whether orders can be written where DATABASE_URL leads to."""
    name = "postgres-primary"
    if (await _identity(site.connection))["is_replica"]:
        return [
            fail(
                name,
                "DATABASE_URL leads to a replica, where no order can be written",
                "Name the primary; or all hosts, with ?target_session_attrs=read-write",
            )
        ]
    return [ok(name, "DATABASE_URL leads to a server that can be written to")]


async def postgres_pooler(site: PostgresSite) -> Findings:
    """Compare DATABASE_POOLER with whether there is one."""
    name, is_there = "postgres-pooler", await is_pooled(site.connection)
    if is_there and not site.settings.database_is_pooled:
        return [
            fail(
                name,
                "DATABASE_URL leads to a pooler, which may give our statements to other sessions",
                "Set DATABASE_POOLER=transaction, or DATABASE_URL to PostgreSQL itself",
            )
        ]
    if site.settings.database_is_pooled and not is_there:
        return [
            warn(
                name,
                "DATABASE_POOLER is set and no pooler is there: each statement takes longer",
                "Leave DATABASE_POOLER empty",
            )
        ]
    return [ok(name, "A pooler is in between" if is_there else "No pooler is in between")]


async def postgres_connections(site: PostgresSite) -> Findings:
    """Compare the connections that our programs may open with those that there may be."""
    name, size = "postgres-connections", site.settings.database_pool_size
    room = int(site.facts["max_connections"]) - int(site.facts["superuser_reserved_connections"])
    if site.settings.database_is_pooled:
        return [ok(name, f"PostgreSQL takes {room} connections, and the pooler opens them")]
    processes = site.settings.web_concurrency + await _workers(site.settings)
    may_open = processes * size + _CONNECTIONS_OF_OTHERS
    said = f"{processes} processes with DATABASE_POOL_SIZE={size} may open {may_open} connections"
    if may_open <= room:
        return [ok(name, f"{said}, of {room}")]
    return [
        warn(
            name,
            f"{said}, and PostgreSQL takes {room}: under load some are refused",
            f"Set DATABASE_POOL_SIZE to {max(2, (room - _CONNECTIONS_OF_OTHERS) // processes)}, "
            "raise max_connections, or put a pooler in between",
        )
    ]


async def _workers(settings: Settings) -> int:
    """Return how many processes of workers of ours Redis knows; none while it does not answer."""
    try:
        async with open_queues(settings) as queues:
            workers = await connected_workers(queues)
    except (RedisError, OSError):
        return 0
    return len({worker.name for worker in workers if worker.language == "python"})


async def postgres_replica(site: PostgresSite) -> Findings:
    """Say whether the replica is one of ours, and how far behind it is."""
    name, dsn = "postgres-replica", site.settings.database_replica_dsn
    if dsn is None:
        return []
    try:
        replica = await connect(dsn)
    except ValueError:
        # Its words may be a part of the password.
        return [unreadable(name, "DATABASE_REPLICA_URL")]
    except (*AWAY, asyncpg.PostgresError) as error:
        return [
            warn(
                name,
                f"The replica cannot be used, and reads go to the primary: {reason_of(error)}",
                "Start the replica, or set DATABASE_REPLICA_URL",
            )
        ]
    try:
        return await _compared(name, site, replica)
    finally:
        with suppress(*AWAY):
            await replica.close(timeout=PATIENCE_S)


async def _compared(
    name: str, site: PostgresSite, replica: asyncpg.Connection[asyncpg.Record]
) -> Findings:
    ours, theirs = await _identity(site.connection), await _identity(replica)
    if wrong := wrong_replica(ours, theirs):
        return [
            fail(
                name,
                f"DATABASE_REPLICA_URL leads to {wrong}",
                "Name a standby of DATABASE_URL's server, or leave it empty",
            )
        ]
    lag_ms = site.settings.database_replica_lag_ms
    position = sure(await site.connection.fetchrow(QUERIES["wal_position"], [0]))
    began = time.monotonic()
    try:
        await reach(replica, position["position"], lag_ms / 1000)
    except ReplicaBehind as behind:
        return [
            warn(
                name,
                f"The replica is {behind.behind_s:.1f} s behind, and DATABASE_REPLICA_LAG_MS is "
                f"{lag_ms}: reads go to the primary",
                "Look at pg_stat_replication of the primary, and at what the replica is busy with",
            )
        ]
    return [ok(name, f"The replica is {time.monotonic() - began:.3f} s behind")]


async def _identity(connection: asyncpg.Connection[asyncpg.Record]) -> Row:
    return sure(await connection.fetchrow(QUERIES["server_identity"]))
