"""What each Redis says of itself: whether it has room, and may lose jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from orderflow.bull.masters import masters_of
from orderflow.bull.queues import JobQueues


async def server_metrics(queues: JobQueues) -> list[Metric]:
    """Return what INFO says; nothing of what this user may not ask. Raises redis.RedisError.

    Of the masters of a cluster each has a label that says where it is.
    """
    masters = await masters_of(queues)
    infos = dict(
        zip(masters, await asyncio.gather(*(_info(m) for m in masters.values())), strict=True)
    )
    labels = [] if "" in masters else ["server"]
    version = GaugeMetricFamily(
        "orderflow_redis_info", "The version of Redis.", labels=["version", *labels]
    )
    gauges = {
        name: GaugeMetricFamily(name, help_text, labels=labels)
        for name, (help_text, _, _) in _GAUGES.items()
    }
    for address, info in infos.items():
        where = [address] if address else []
        if "redis_version" in info:
            version.add_metric([str(info["redis_version"]), *where], 1)
        for name, (_, field, read) in _GAUGES.items():
            if field in info:
                gauges[name].add_metric(where, read(info[field]))
    return [metric for metric in (version, *gauges.values()) if metric.samples]


async def _info(redis: Redis) -> Mapping[str, Any]:
    sections = await asyncio.gather(
        *(_section(redis, section) for section in ("server", "memory", "persistence"))
    )
    return {name: value for section in sections for name, value in section.items()}


async def _section(redis: Redis, section: str) -> Mapping[str, Any]:
    try:
        info: Mapping[str, Any] = await redis.info(section)
    except ResponseError:
        # A hosted Redis may keep it to itself.
        return {}
    return info


#: What each gauge says, the field of INFO it is read from, and how.
_GAUGES: Mapping[str, tuple[str, str, Callable[[Any], float]]] = {
    "orderflow_redis_memory_used_bytes": ("Memory that Redis uses.", "used_memory", float),
    "orderflow_redis_memory_max_bytes": (
        "Memory that Redis may use (maxmemory), 0 if there is no limit.",
        "maxmemory",
        float,
    ),
    "orderflow_redis_eviction_policy_wrong": (
        "Whether Redis may drop jobs: maxmemory-policy is not noeviction.",
        "maxmemory_policy",
        lambda policy: policy != "noeviction",
    ),
    "orderflow_redis_aof_write_failed": (
        "Whether the last write to the append-only file failed.",
        "aof_last_write_status",
        lambda status: status != "ok",
    ),
}
