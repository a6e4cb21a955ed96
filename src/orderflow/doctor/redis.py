"""What the doctor looks at in Redis: each of its servers, and then the queues on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.bull.clients import QueueClients
from orderflow.bull.finding import MasterNotFound
from orderflow.bull.masters import masters_of
from orderflow.bull.queues import JobQueues
from orderflow.doctor.findings import (
    PATIENCE_MS,
    Findings,
    compare_clocks,
    fail,
    numbers_of,
    ok,
    reason_of,
    run_checks,
    unreadable,
    warn,
)
from orderflow.doctor.queues import QUEUE_CHECKS, QueueSite
from orderflow.doctor.redis_sites import examine_cluster, examine_sentinels, misplaced
from orderflow.settings import Settings

#: What BullMQ itself recommends at least.
_OLDEST_REDIS = (6, 2)
_FULL = 0.8


@dataclass(frozen=True, slots=True)
class RedisSite:
    """What the checks of a server look at; `info` is its own INFO."""

    client: Redis
    info: Mapping[str, Any]


async def redis_version(site: RedisSite) -> Findings:
    """Say whether BullMQ's scripts run on this version."""
    version = str(site.info["redis_version"])
    if numbers_of(version) < _OLDEST_REDIS:
        return [
            fail(
                "redis-version",
                f"Redis {version} is older than 6.2, which BullMQ asks for at least",
                "Upgrade Redis to 6.2 or newer",
            )
        ]
    if "valkey_version" in site.info:
        return [ok("redis-version", f"Valkey {site.info['valkey_version']} answers")]
    return [ok("redis-version", f"Redis {version} answers")]


async def redis_role(site: RedisSite) -> Findings:
    """Say whether jobs can be added here at all."""
    if site.info.get("role") == "slave":
        return [
            fail(
                "redis-role",
                "This Redis is a replica: no job can be added to it",
                "Point REDIS_URL or REDIS_HOST at the primary",
            )
        ]
    return []


async def redis_eviction(site: RedisSite) -> Findings:
    """Say whether Redis may throw jobs away when it is full."""
    policy = site.info["maxmemory_policy"]
    if policy != "noeviction":
        return [
            fail(
                "redis-eviction",
                f"maxmemory-policy is {policy}: when memory is short, Redis deletes jobs",
                "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
            )
        ]
    return [ok("redis-eviction", "maxmemory-policy is noeviction")]


async def redis_memory(site: RedisSite) -> Findings:
    """Say whether Redis is about to refuse jobs for want of memory."""
    limit, used = int(site.info["maxmemory"]), int(site.info["used_memory"])
    if not limit:
        return [ok("redis-memory", f"{_mebibytes(used)} used, and maxmemory sets no limit")]
    said = f"{used / limit:.0%} of maxmemory is used: {_mebibytes(used)} of {_mebibytes(limit)}"
    if used > limit * _FULL:
        return [
            warn(
                "redis-memory",
                f"{said}; at 100% no job can be added",
                "Raise maxmemory, or look for a queue that grows because nobody works on it",
            )
        ]
    return [ok("redis-memory", said)]


async def redis_persistence(site: RedisSite) -> Findings:
    """Say whether jobs outlive a restart of Redis."""
    name, info = "redis-persistence", site.info
    if info["aof_enabled"]:
        status = info["aof_last_write_status"]
        if status != "ok":
            return [
                fail(
                    name,
                    f"The last write to the append only file ended with {status}",
                    "Look at the log of Redis, and whether its disk is full",
                )
            ]
        return [ok(name, "The append only file is on")]
    if not (await site.client.config_get("save"))["save"]:
        return [
            warn(
                name,
                "Neither the append only file nor snapshots are on: a restart loses all jobs. "
                "The reconciler puts back those of known orders, but not those of others",
                "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
            )
        ]
    status = info["rdb_last_bgsave_status"]
    if status != "ok":
        return [
            fail(
                name,
                f"The last snapshot ended with {status}; Redis may refuse to write until one works",
                "Look at the log of Redis, and whether its disk is full",
            )
        ]
    return [ok(name, "Snapshots are on; a crash loses what came after the last one")]


async def redis_clock(site: RedisSite) -> Findings:
    """Compare the clock of Redis with that of this machine."""

    async def ask() -> float:
        seconds, microseconds = await site.client.time()
        return float(seconds) + float(microseconds) / 1e6

    return await compare_clocks("redis-clock", "Redis", ask)


SERVER_CHECKS: Sequence[Callable[[RedisSite], Awaitable[Findings]]] = (
    redis_version,
    redis_role,
    redis_eviction,
    redis_memory,
    redis_persistence,
    redis_clock,
)

_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)


async def examine_redis(settings: Settings) -> Findings:
    """Run every check of Redis and return what each found, in order."""
    fix = "Start Redis, or set REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASSWORD"
    try:
        clients = QueueClients.to(settings.redis_servers, PATIENCE_MS)
        queues = JobQueues(
            clients, settings.queue_names, settings.priorities, settings.queue_depth_limit
        )
    except ValueError:
        return [unreadable("redis", "REDIS_URL")]
    findings: Findings = []
    try:
        masters = await masters_of(queues)
        sites = [RedisSite(master, await master.info()) for master in masters.values()]
        wrong = misplaced(settings, sites[0].info)
        if wrong is not None:
            return [wrong]
        findings += await examine_sentinels(settings, sites[0].client)
        findings += await examine_cluster(settings, sites[0].client, queues.names)
        for address, site in zip(masters, sites, strict=True):
            await _check_server(site, address, findings)
        place = QueueSite(settings, queues)
        await run_checks(QUEUE_CHECKS, place, _AWAY, ResponseError, findings)
    except MasterNotFound as error:
        findings.append(fail("redis", error.said, error.fix))
    except (*_AWAY, RedisError) as error:
        findings.append(fail("redis", f"Redis cannot be used: {reason_of(error)}", fix))
    finally:
        await clients.aclose()
    return findings


async def _check_server(site: RedisSite, address: str, findings: Findings) -> None:
    """Run the checks of a server; what they find of one of several names it."""
    found: Findings = []
    try:
        await run_checks(SERVER_CHECKS, site, _AWAY, ResponseError, found)
    finally:
        where = f"{address}: " if address else ""
        findings += [replace(finding, message=where + finding.message) for finding in found]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
