"""What Redis says of the queues and of itself: a fixed number of questions, in two round trips.

Each is O(1) or O(log n) in the number of jobs. What BullMQ exports itself has BullMQ's names.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from orderflow.bull.fleet import connected_workers
from orderflow.bull.queues import JobQueues
from orderflow.contract import MAX_PRIORITY, Priorities, Priority
from orderflow.exporter.servers import server_metrics

T = TypeVar("T")

#: The breakers that processes tell of.
_BREAKERS = ("gateway",)
#: BullMQ's states, the key of each, and whether that is a list. A queue that an older Node service
#: paused keeps its jobs in `paused`.
_STATES = {
    "waiting": ("wait", True),
    "prioritized": ("prioritized", False),
    "active": ("active", True),
    "completed": ("completed", False),
    "failed": ("failed", False),
    "delayed": ("delayed", False),
    "paused": ("paused", True),
    "waiting-children": ("waiting-children", False),
}
#: Names a part of one queue.
_Key = Callable[[str], str]
#: A score of a job with a priority is that times this, and a counter.
_PRIORITY_STEP = 2**32
#: A score of a delayed job is the end of its delay in milliseconds times this, and a counter.
_DELAY_STEP = 4096


async def redis_metrics(queues: JobQueues, priorities: Priorities) -> list[Metric]:
    """Return the metrics of this moment, or `orderflow_redis_up` alone, as 0.

    In a cluster of which a part does not answer, there are those of the others beside the 0.
    """
    up = GaugeMetricFamily("orderflow_redis_up", "Whether Redis answered this scrape.")
    names = queues.names.all()
    looks, found = await asyncio.gather(
        asyncio.gather(*(_if_answered(_look(queues, name, priorities)) for name in names)),
        asyncio.gather(*(_if_answered(ask(queues)) for ask in _OTHERS)),
    )
    seen = {name: queue for name, queue in zip(names, looks, strict=True) if queue is not None}
    up.add_metric([], len(seen) == len(names) and None not in found)
    metrics = [metric for some in found for metric in some or ()]
    return [up, *_queue_metrics(seen), *metrics] if seen else [up]


async def _if_answered(asked: Awaitable[T]) -> T | None:
    """Return what Redis says, or None if it says nothing."""
    try:
        return await asked
    except (RedisError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class _Ended:
    """BullMQ's own count of jobs that ended in one way, and how many in the last full minute."""

    total: int
    last_minute: int

    @classmethod
    def read(
        cls, count: str | None, since: str | None, at: str | None, point: str | None
    ) -> _Ended:
        """Read what Redis has: the count, what it was when the minute of `at` began, and `at`.

        `point` is the count of the minute before that one.
        """
        total = int(count or 0)
        minutes = int(time.time() // 60) - int(at or 0) // 60_000
        # The minute is counted up when the first job of another one ends.
        last = {0: int(point or 0), 1: total - int(since or 0)}
        return cls(total, last.get(minutes, 0))


@dataclass(frozen=True, slots=True)
class _Queue:
    counts: Mapping[str, int]
    completed: _Ended
    failed: _Ended
    paused: bool
    overdue_s: float
    oldest_s: Mapping[str, float]


async def _look(queues: JobQueues, queue: str, priorities: Priorities) -> _Queue:
    redis, key = queues.client_of(queue), partial(queues.names.key, queue)
    sizes, completed, failed, paused, overdue_s, oldest_s = await asyncio.gather(
        asyncio.gather(*(_size(redis, key(name), is_list) for name, is_list in _STATES.values())),
        _ended(redis, key("metrics:completed")),
        _ended(redis, key("metrics:failed")),
        _of(redis.hexists(key("meta"), "paused")),
        _overdue_s(redis, key("delayed")),
        _oldest_s(redis, key, priorities),
    )
    counts = dict(zip(_STATES, sizes, strict=True))
    return _Queue(counts, completed, failed, bool(paused), overdue_s, oldest_s)


async def _of(reply: Awaitable[Any] | Any) -> Any:
    """Await what redis-py declares to be a reply or a promise of one."""
    return await reply


async def _size(redis: Redis, key: str, is_list: bool) -> int:
    return int(await _of(redis.llen(key) if is_list else redis.zcard(key)))


async def _ended(redis: Redis, key: str) -> _Ended:
    (count, since, at), point = await asyncio.gather(
        _of(redis.hmget(key, ["count", "prevCount", "prevTS"])), _of(redis.lindex(f"{key}:data", 0))
    )
    return _Ended.read(count, since, at, point)


async def _overdue_s(redis: Redis, key: str) -> float:
    """Return how long ago the first delayed job was due."""
    first = await _of(redis.zrange(key, 0, 0, withscores=True))
    return max(0.0, time.time() - first[0][1] / _DELAY_STEP / 1000) if first else 0.0


async def _oldest_s(redis: Redis, key: _Key, priorities: Priorities) -> Mapping[str, float]:
    """Return by priority the age of the job that is next in line, 0 where none waits."""
    heads = [
        *(("none", _of(redis.lindex(key(name), -1))) for name in ("wait", "paused")),
        *(
            (name, _first(redis, key("prioritized"), *numbers))
            for name, numbers in _ranges(priorities)
        ),
    ]
    ids = await asyncio.gather(*(head for _, head in heads))
    names = [name for name, _ in heads]
    ages = await asyncio.gather(*(_age_s(redis, key, job_id) for job_id in ids))
    oldest = dict.fromkeys(names, 0.0)
    for name, age_s in zip(names, ages, strict=True):
        oldest[name] = max(oldest[name], age_s)
    return oldest


def _ranges(priorities: Priorities) -> Iterator[tuple[str, tuple[int, int]]]:
    """Give the numbers from the first to the last of each named priority, and of those between."""
    free_from = 0
    named = sorted((priorities.number(priority), priority.value) for priority in Priority)
    for number, name in named:
        if free_from < number:
            yield "other", (free_from, number - 1)
        yield name, (number, number)
        free_from = number + 1
    yield "other", (free_from, MAX_PRIORITY)


async def _first(redis: Redis, key: str, low: int, high: int) -> str | None:
    """Return the job that is next of those with a priority from `low` to `high`."""
    scores = low * _PRIORITY_STEP, f"({(high + 1) * _PRIORITY_STEP}"
    found = await _of(redis.zrange(key, *scores, byscore=True, offset=0, num=1))
    return str(found[0]) if found else None


async def _age_s(redis: Redis, key: _Key, job_id: str | None) -> float:
    """Return how long ago a job was added, or its delay was over; 0 if there is none."""
    if job_id is None:
        return 0.0
    added_ms, options = await _of(redis.hmget(key(job_id), ["timestamp", "opts"]))
    if added_ms is None:
        return 0.0
    try:
        delay_ms = json.loads(options or "{}").get("delay") or 0
        return max(0.0, time.time() - (float(added_ms) + float(delay_ms)) / 1000)
    except (ValueError, TypeError, AttributeError):
        # What a stranger wrote: a worker fails such a job, with its reason.
        return 0.0


def _queue_metrics(seen: Mapping[str, _Queue]) -> list[Metric]:
    count = _gauge("bullmq_job_count", "Number of jobs in the queue by state", "state")
    paused = _gauge("orderflow_queue_paused", "Whether the queue is paused.")
    oldest = _gauge(
        "orderflow_queue_oldest_waiting_seconds",
        "Age of the job that is next in line, 0 if none waits.",
        "priority",
    )
    overdue = _gauge(
        "orderflow_queue_delayed_overdue_seconds",
        "How long ago the first delayed job was due, 0 if none is overdue.",
    )
    for name, queue in seen.items():
        for state, jobs in queue.counts.items():
            count.add_metric([name, state], jobs)
        for priority, age_s in queue.oldest_s.items():
            oldest.add_metric([name, priority], age_s)
        paused.add_metric([name], queue.paused)
        overdue.add_metric([name], queue.overdue_s)
    return [
        count,
        *_ended_metrics("completed", {name: queue.completed for name, queue in seen.items()}),
        *_ended_metrics("failed", {name: queue.failed for name, queue in seen.items()}),
        oldest,
        overdue,
        paused,
    ]


def _ended_metrics(how: str, queues: Mapping[str, _Ended]) -> Iterator[Metric]:
    # BullMQ's own name, and that of an exporter whose board is in use.
    for jobs in ("job", "jobs"):
        total = CounterMetricFamily(
            f"bullmq_{jobs}_{how}", f"Total number of {how} jobs", labels=["queue"]
        )
        for name, ended in queues.items():
            total.add_metric([name], ended.total)
        yield total
    last = _gauge(f"bullmq_jobs_{how}_last_minute", f"Jobs that {how} in the last full minute")
    for name, ended in queues.items():
        last.add_metric([name], ended.last_minute)
    yield last


async def _workers(queues: JobQueues) -> Sequence[Metric]:
    try:
        connected = await connected_workers(queues)
    except ResponseError:
        # A hosted Redis may keep its connections to itself.
        return []
    on_queue = Counter(worker.queue for worker in connected)
    workers = _gauge("orderflow_workers_connected", "Workers that are connected to Redis.")
    for name in queues.names.all():
        workers.add_metric([name], on_queue[name])
    return [workers]


async def _breakers(queues: JobQueues) -> Sequence[Metric]:
    told = await asyncio.gather(*(queues.told_of_outage(breaker) for breaker in _BREAKERS))
    breakers = GaugeMetricFamily(
        "orderflow_breaker_open",
        "Whether this is left alone because it failed.",
        labels=["breaker"],
    )
    for breaker, outage in zip(_BREAKERS, told, strict=True):
        breakers.add_metric([breaker], outage is not None)
    return [breakers]


#: What is asked besides the queues.
_OTHERS = (_workers, _breakers, server_metrics)


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, labels=["queue", *labels])
