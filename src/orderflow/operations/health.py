"""How the servers are that everything stands on, and whether what must hold of all orders does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orderflow.bull.masters import masters_of
from orderflow.bull.queues import JobQueues
from orderflow.contract import JobName, QueueName
from orderflow.db import Database, Reads
from orderflow.db.reads import sure
from orderflow.invariants import INVARIANTS, Invariant, count_violations
from orderflow.settings import Settings


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What Redis says of itself. `limit_bytes` is None where it may take all there is.

    `address` says which of the masters of a cluster it is, and is empty where there is but one.
    """

    address: str
    version: str
    used_bytes: int
    limit_bytes: int | None
    eviction_policy: str
    keeps_log: bool
    log_is_written: bool
    clients: int

    @property
    def trouble(self) -> list[str]:
        """What would lose jobs, or keep new ones out, in plain words."""
        found = []
        if self.eviction_policy != "noeviction":
            found.append(f"it drops jobs when its memory is full ({self.eviction_policy})")
        if self.limit_bytes and self.used_bytes > _FULL * self.limit_bytes:
            found.append(f"{self.used_bytes / self.limit_bytes:.0%} of its memory is used")
        if not self.log_is_written:
            found.append("the last write to its append only file failed")
        return found


@dataclass(frozen=True, slots=True)
class PostgresHealth:
    """What PostgreSQL says of itself."""

    version: str
    size_bytes: int
    connections: int
    max_connections: int


@dataclass(frozen=True, slots=True)
class ReconcilerRun:
    """The newest run of the reconciler that Redis knows; `counts` are empty where it failed."""

    ended_at: datetime
    failed_reason: str | None
    counts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and how often."""

    count: int
    invariant: Invariant


_FULL = 0.8
#: The newest jobs that are looked at for one of the reconciler: the queue may have others.
_LOOKED_AT = 20
_ORDERS_LOOKED_AT = 10_000


async def redis_health(queues: JobQueues) -> list[RedisHealth]:
    """Ask each Redis how it is. Raises redis.RedisError."""
    masters = await masters_of(queues)
    infos = await asyncio.gather(*(master.info() for master in masters.values()))
    return [_health(address, info) for address, info in zip(masters, infos, strict=True)]


def _health(address: str, info: Mapping[str, Any]) -> RedisHealth:
    return RedisHealth(
        address=address,
        version=str(info["redis_version"]),
        used_bytes=int(info["used_memory"]),
        limit_bytes=int(info["maxmemory"]) or None,
        eviction_policy=str(info["maxmemory_policy"]),
        keeps_log=bool(info["aof_enabled"]),
        log_is_written=info.get("aof_last_write_status", "ok") == "ok",
        clients=int(info["connected_clients"]),
    )


async def postgres_health(db: Database) -> PostgresHealth:
    """Ask PostgreSQL how it is. Raises DatabaseUnavailable."""
    return PostgresHealth(**sure(await db.fetchrow("server_health")))


async def last_reconciler_run(queues: JobQueues) -> ReconcilerRun | None:
    """Return the newest run that is kept, or None. Raises redis.RedisError."""
    runs = [run for end in ("completed", "failed") for run in await _runs(queues, end)]
    return max(runs, key=lambda run: run.ended_at, default=None)


async def violated_invariants(db: Reads, settings: Settings) -> list[Violation]:
    """Return what does not hold, of the newest orders and those that are open.

    Raises DatabaseUnavailable.
    """
    counts = await count_violations(db, settings, _ORDERS_LOOKED_AT)
    return [Violation(count, INVARIANTS[name]) for name, count in counts.items() if count]


async def _runs(queues: JobQueues, end: str) -> list[ReconcilerRun]:
    redis: Any = queues.client_of(QueueName.ORDERS)
    ended = queues.names.key(QueueName.ORDERS, end)
    for job_id in await redis.zrange(ended, 0, _LOOKED_AT - 1, desc=True):
        key = queues.names.key(QueueName.ORDERS, job_id)
        parts: list[Any] = await redis.hmget(
            key, ["name", "finishedOn", "failedReason", "returnvalue"]
        )
        name, ended_ms, reason, result = parts
        if name == JobName.RECONCILE and ended_ms is not None:
            ended_at = datetime.fromtimestamp(int(ended_ms) / 1_000, UTC)
            failed = end == "failed"
            counts = {} if failed else json.loads(result or "{}")
            return [ReconcilerRun(ended_at, reason if failed else None, counts)]
    return []
