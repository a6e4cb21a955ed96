"""What the doctor looks at where several servers are one Redis: whether another would take over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from redis.asyncio import Redis
from redis.crc import key_slot

from orderflow.bull.finding import finder_of
from orderflow.bull.replies import CLUSTER_FIX
from orderflow.contract import QueueName
from orderflow.doctor.findings import Finding, Findings, fail, listed, ok, reason_of, warn
from orderflow.queue_names import QueueNames
from orderflow.settings import Settings


def misplaced(settings: Settings, info: Mapping[str, Any]) -> Finding | None:
    """Say that this is not what the settings take it for: then nothing else can be looked at."""
    mode = info.get("redis_mode", info.get("server_mode"))  # the latter is Valkey's
    if mode == "sentinel":
        return fail(
            "redis-mode",
            "This is a sentinel, which takes no jobs",
            "Name it in REDIS_SENTINELS, and set REDIS_SENTINEL_MASTER",
        )
    if mode == "cluster" and not settings.redis_cluster:
        return fail("redis-mode", "This Redis is a node of a cluster", CLUSTER_FIX)
    return None


async def examine_sentinels(settings: Settings, client: Redis) -> Findings:
    """Say which sentinels answer, and whether they would make another server the master."""
    finder, name = finder_of(client), settings.redis_servers.sentinel_master
    if finder is None or not settings.redis_sentinels:
        return []
    findings = []
    well = {}
    for place, told in (await finder.ask_each("SENTINEL", "MASTER", name)).items():
        if isinstance(told, Exception):
            findings.append(
                warn(
                    "redis-sentinel",
                    f"The sentinel {place} does not answer: {reason_of(told)}",
                    "Start it, or take it out of REDIS_SENTINELS",
                )
            )
        else:
            well[place] = dict(zip(told[::2], told[1::2], strict=True))
    for place, told in (await finder.ask_each("SENTINEL", "CKQUORUM", name)).items():
        if place in well and isinstance(told, Exception):
            findings.append(
                fail(
                    "redis-sentinel",
                    f"The sentinels would not replace a dead master: {told}",
                    "Start more of them, on machines of their own: three or more, of which most "
                    "live",
                )
            )
            break
    said = next(iter(well.values()), None)
    if said is None:
        return findings
    replicas = int(said["num-slaves"])
    if not replicas:
        findings.append(
            warn(
                "redis-sentinel",
                f"'{name}' has no replica: if it dies, nothing takes its place",
                "Start a Redis with `replicaof` its address",
            )
        )
    findings.append(
        ok(
            "redis-sentinel",
            f"'{name}' is {said['ip']}:{said['port']}; sentinels that answer: {len(well)}; "
            f"replicas: {replicas}",
        )
    )
    return findings


async def examine_cluster(settings: Settings, client: Redis, names: QueueNames) -> Findings:
    """Say whether the cluster serves all keys, where each queue is, and who would take over."""
    if not settings.redis_cluster:
        return []
    ask = cast(Callable[..., Awaitable[Any]], client.execute_command)
    lines = str(await ask("CLUSTER", "INFO")).split()
    state = dict(line.split(":", 1) for line in lines)["cluster_state"]
    findings = []
    if state != "ok":
        findings.append(
            fail(
                "redis-cluster",
                f"The cluster says that its state is {state}: some keys are served by nobody",
                "redis-cli --cluster check, on any of its nodes, says which",
            )
        )
    ranges = await ask("CLUSTER", "SLOTS")
    alone, masters = [], {}
    for queue in names.all():
        masters[queue], replicas = _serving(ranges, f"{names.prefix_of(queue)}:")
        findings.append(ok("redis-cluster", f"{queue} is on {masters[queue]}"))
        alone += [] if replicas else [masters[queue]]
    findings += _together(masters, names)
    if alone:
        findings.append(
            warn(
                "redis-cluster",
                f"No replica stands behind {listed(dict.fromkeys(alone))}: if it dies, its queues "
                "stand still",
                "Give each master a replica: redis-cli --cluster add-node … --cluster-slave",
            )
        )
    return findings


def _together(masters: Mapping[str, str], names: QueueNames) -> Findings:
    """Warn of shards of one queue that are on the same master, so that one core has both."""
    findings = []
    for queue in QueueName:
        shards = names.shards_of(queue)
        places = [masters[shard] for shard in shards]
        shared = [s for s, place in zip(shards, places, strict=True) if places.count(place) > 1]
        if shared:
            findings.append(
                warn(
                    "redis-cluster",
                    f"Shards of one queue are on the same master: {listed(shared)}",
                    "Move the slot of one of them: redis-cli --cluster reshard",
                )
            )
    return findings


def _serving(ranges: Iterable[Any], key: str) -> tuple[str, int]:
    """Return who has a key, and how many replicas it has."""
    slot = key_slot(key.encode())
    for first, last, master, *replicas in ranges:
        if first <= slot <= last:
            return f"{master[0]}:{master[1]}", len(replicas)
    return "no node", 0
