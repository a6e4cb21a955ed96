"""What Redis says of itself: whether it has room, and may lose jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from redis.asyncio import Redis
from redis.exceptions import ResponseError


async def server_metrics(redis: Redis) -> list[Metric]:
    """Return what INFO says; nothing of what this user may not ask. Raises redis.RedisError."""
    sections = await asyncio.gather(
        *(_info(redis, section) for section in ("server", "memory", "persistence"))
    )
    info = {name: value for section in sections for name, value in section.items()}
    metrics: list[Metric] = []
    if "redis_version" in info:
        version = GaugeMetricFamily("orderflow_redis_info", "The server.", labels=["version"])
        version.add_metric([str(info["redis_version"])], 1)
        metrics.append(version)
    for name, (help_text, field, read) in _GAUGES.items():
        if field in info:
            metrics.append(GaugeMetricFamily(name, help_text, value=read(info[field])))
    return metrics


async def _info(redis: Redis, section: str) -> Mapping[str, Any]:
    try:
        info: Mapping[str, Any] = await redis.info(section)
    except ResponseError:
        # A hosted Redis may keep it to itself.
        return {}
    return info


#: What each gauge says, the field of INFO it is read from, and how.
_GAUGES: Mapping[str, tuple[str, str, Callable[[Any], float]]] = {
    "orderflow_redis_memory_used_bytes": ("Memory that Redis uses.", "used_memory", float),
    "orderflow_redis_memory_max_bytes": ("Its maxmemory; 0: no limit.", "maxmemory", float),
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
