"""What the doctor looks at in Redis: the server, and the queues on it."""

from __future__ import annotations

import re
from collections import Counter
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
from orderflow.bull.producer import node_client_name
from orderflow.bull.queues import JobQueues
from orderflow.contract import QueueName
from orderflow.doctor.findings import (
    PATIENCE_MS,
    Findings,
    compare_clocks,
    fail,
    listed,
    numbers_of,
    ok,
    reason_of,
    run_checks,
    unreadable,
    warn,
)
from orderflow.doctor.redis_sites import examine_cluster, examine_sentinels, misplaced
from orderflow.settings import Settings

#: What BullMQ itself recommends at least.
_OLDEST_REDIS = (6, 2)
_FULL = 0.8
#: Keys are looked through in steps, so that Redis answers others in between, and not for ever.
_SCAN_STEP, _SCAN_STEPS = 1_000, 500


@dataclass(frozen=True, slots=True)
class RedisSite:
    """What the checks of Redis look at; `info` is the server's own INFO."""

    settings: Settings
    client: Redis
    queues: JobQueues
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


async def prefix(site: RedisSite) -> Findings:
    """Say what other queues are under the prefix, and whether ours are under another one."""
    ours, names = site.settings.queue_prefix, site.queues.names
    seen, complete = await _find_queues(site.queues)
    found = {queue for prefix, queue in seen if prefix == names.prefix_of(queue)}
    contract = set(names.all())
    findings = await _judge_foreign(site, sorted(found - contract))
    elsewhere = sorted(
        {prefix for prefix, queue in seen if queue in contract and prefix != names.prefix_of(queue)}
    )
    if elsewhere and not found & contract:
        findings.append(
            warn(
                "prefix",
                f"QUEUE_PREFIX is '{ours}', where none of the queues is; they are under: "
                f"{listed(elsewhere)}",
                "Set QUEUE_PREFIX to the `prefix` that the Node services give to BullMQ",
            )
        )
    if not complete:
        findings.append(
            ok("prefix", f"Only the first {_SCAN_STEP * _SCAN_STEPS:,} keys were looked through")
        )
    return findings or [ok("prefix", f"Under '{ours}' are no queues but those of the contract")]


async def priorities(site: RedisSite) -> Findings:
    """Say whether jobs wait under numbers that the settings lack."""
    numbers = site.settings.priorities
    findings = []
    for queue in site.queues.names.all():
        unknown = numbers.unknown(await site.queues.priorities_in_use(queue))
        if unknown:
            findings.append(
                warn(
                    "priorities",
                    f"{queue}: jobs wait with the priority {listed(unknown)}, which is none of "
                    f"{numbers.high}, {numbers.medium}, {numbers.low}",
                    "Set PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW to the numbers of the "
                    "other producers, and the same ones on all sides",
                )
            )
    return findings or [
        ok("priorities", f"HIGH {numbers.high}, MEDIUM {numbers.medium}, LOW {numbers.low}")
    ]


async def paused(site: RedisSite) -> Findings:
    """Say which queues are paused, and where a 5.x client left jobs aside."""
    findings = []
    resume = "Resume it in Bull Board, or by `await queue.resume()` in Node"
    for queue in site.queues.names.all():
        client, key = site.queues.client_of(queue), site.queues.names.key
        if await client.hexists(key(queue, "meta"), "paused"):
            findings.append(
                warn("paused", f"{queue} is paused: its jobs wait and none is started", resume)
            )
        aside = await client.llen(key(queue, "paused"))
        if aside:
            findings.append(
                warn(
                    "paused",
                    f"{queue}: {aside} jobs lie in the list `paused`, where only a 5.x client "
                    "puts them; no worker takes a job from it, and a second pause by 5.x loses it",
                    f"{resume}, again until this is gone: one call moves 7,000 jobs at most",
                )
            )
    return findings or [ok("paused", "No queue is paused")]


async def gateway(site: RedisSite) -> Findings:
    """Say whether workers leave the payment gateway alone, and why."""
    outage = await site.queues.told_of_outage("gateway")
    if outage is None:
        return [ok("gateway", "No worker tells that the payment gateway is away")]
    return [
        warn(
            "gateway",
            f"Payments wait: the gateway has failed since {outage.since:%Y-%m-%d %H:%M:%S} UTC "
            f"({outage.reason}), and is asked again at {outage.until:%H:%M:%S}",
            "Look at the gateway, GATEWAY_URL and GATEWAY_API_KEY; payments go on by themselves "
            "once it answers",
        )
    ]


async def workers(site: RedisSite) -> Findings:
    """Say who works on each queue, and in which language."""
    findings = []
    names = zip(QueueName, ("payment", "notification", "order"), strict=True)
    shards = [(s, name) for queue, name in names for s in site.queues.names.shards_of(queue)]
    for queue, name in shards:
        told = Counter(await _workers_on(site, queue))
        if told:
            who = ", ".join(f"{count} {worker}" for worker, count in sorted(told.items()))
            findings.append(ok("workers", f"{queue}: {who}"))
        else:
            findings.append(
                warn(
                    "workers",
                    f"{queue}: no worker is connected, so its jobs wait",
                    f"python -m orderflow.worker {name}",
                )
            )
    return findings


Checks = Sequence[Callable[[RedisSite], Awaitable[Findings]]]

#: What is asked of each server.
SERVER_CHECKS: Checks = (
    redis_version,
    redis_role,
    redis_eviction,
    redis_memory,
    redis_persistence,
    redis_clock,
)
QUEUE_CHECKS: Checks = (
    prefix,
    priorities,
    paused,
    gateway,
    workers,
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
        sites = [RedisSite(settings, m, queues, await m.info()) for m in masters.values()]
        wrong = misplaced(settings, sites[0].info)
        if wrong is not None:
            return [wrong]
        findings += await examine_sentinels(settings, sites[0].client)
        findings += await examine_cluster(settings, sites[0].client, queues.names)
        for address, site in zip(masters, sites, strict=True):
            await _run(SERVER_CHECKS, site, findings, address)
        await _run(QUEUE_CHECKS, sites[0], findings)
    except MasterNotFound as error:
        findings.append(fail("redis", error.said, error.fix))
    except (*_AWAY, RedisError) as error:
        findings.append(fail("redis", f"Redis cannot be used: {reason_of(error)}", fix))
    finally:
        await clients.aclose()
    return findings


async def _run(checks: Checks, site: RedisSite, findings: Findings, address: str = "") -> None:
    """Run the checks; what they find of one of several servers names it."""
    found: Findings = []
    try:
        await run_checks(checks, site, _AWAY, ResponseError, found)
    finally:
        where = f"{address}: " if address else ""
        findings += [replace(finding, message=where + finding.message) for finding in found]


async def _find_queues(queues: JobQueues) -> tuple[set[tuple[str, str]], bool]:
    """Return the prefixes and names of all queues, and whether every key was looked at."""
    looked = [await _find_on(master) for master in (await masters_of(queues)).values()]
    return set().union(*(found for found, _ in looked)), all(whole for _, whole in looked)


async def _find_on(client: Redis) -> tuple[set[tuple[str, str]], bool]:
    found: set[tuple[str, str]] = set()
    cursor = 0
    for _ in range(_SCAN_STEPS):
        cursor, keys = await client.scan(cursor, match="*:*:meta", count=_SCAN_STEP)
        # Neither a prefix of ours nor the name of a queue has a colon.
        parts = [str(key).split(":") for key in keys]
        found |= {(prefix, queue) for prefix, queue, *rest in parts if len(rest) == 1}
        if cursor == 0:
            return found, True
    return found, False


async def _judge_foreign(site: RedisSite, names: Sequence[str]) -> Findings:
    """Say which queues are not of the contract; one with jobs and no worker may be a slip."""
    if not names:
        return []
    idle = [
        name
        for name in names
        if await site.queues.depth(name) and not await _workers_on(site, name)
    ]
    ours = listed(site.queues.names.all())
    findings = [ok("prefix", f"Other queues under the same prefix: {listed(names)}")]
    if idle:
        findings.append(
            warn(
                "prefix",
                f"Jobs wait in queues that are not of the contract and have no worker: "
                f"{listed(idle)}",
                f"If a name is misspelled, the producer must use one of: {ours}",
            )
        )
    return findings


async def _workers_on(site: RedisSite, queue: str) -> list[str]:
    """Return what kind each worker on a queue is of."""
    prefix = site.queues.names.prefix_of(queue)
    connections = await site.queues.client_of(queue).client_list()
    kinds = (_worker(connection, prefix, queue) for connection in connections)
    return [kind for kind in kinds if kind is not None]


_PROCESS = re.compile(r".+-\d+")


def _worker(client: Mapping[str, str], prefix: str, queue: str) -> str | None:
    """Return what kind of worker on `queue` a connection belongs to, or None.

    Redis 7.2 and newer know the library of a connection. Before, the name has to do: ours always
    end in a process id, and Node's have a name only if they were given one.
    """
    base, _, name = client.get("name", "").partition(":w:")
    if base == f"{prefix}:{queue}":
        return "of the stock Python client"
    if base != node_client_name(prefix, queue):
        return None
    library = client.get("lib-name") or ""
    ours = library.startswith("redis-py") if library else bool(_PROCESS.fullmatch(name))
    return "of orderflow" if ours else "of Node"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
