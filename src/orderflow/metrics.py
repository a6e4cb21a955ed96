"""Every metric of orderflow, by name.

The names of the queue metrics are BullMQ's own, so that dashboards made for it work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from redis import Redis
from redis.exceptions import RedisError

from orderflow.breaker import outage_key

#: The breakers that processes tell of.
BREAKERS = ("gateway",)
#: BullMQ's states, and the keys whose sizes add up to each. Jobs with a priority wait in a sorted
#: set of their own; a queue that an older Node service paused keeps its jobs in `paused`.
STATES: Mapping[str, Sequence[tuple[str, str]]] = {
    "waiting": (("wait", "list"), ("prioritized", "zset")),
    "active": (("active", "list"),),
    "completed": (("completed", "zset"),),
    "failed": (("failed", "zset"),),
    "delayed": (("delayed", "zset"),),
    "paused": (("paused", "list"),),
    "waiting-children": (("waiting-children", "zset"),),
}


class InvariantCollector:
    """Gives what `ask` returns at every scrape: how often each invariant of the orders is violated.

    Where it raises OSError, `orderflow_postgres_up` is 0 and nothing is said of the invariants.
    """

    def __init__(self, ask: Callable[[], Mapping[str, int]]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of this moment."""
        up = GaugeMetricFamily("orderflow_postgres_up", "Whether PostgreSQL answered this scrape.")
        try:
            found = self._ask()
        except OSError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        violations = GaugeMetricFamily(
            "orderflow_invariant_violations",
            "How often what must hold of all orders does not.",
            labels=["invariant"],
        )
        for invariant, count in found.items():
            violations.add_metric([invariant], count)
        yield violations


class QueueCollector:
    """Asks Redis for the size of each queue at every scrape.

    When Redis does not answer, `orderflow_redis_up` is 0 and no count is given at all: unknown is
    not none.
    """

    def __init__(self, client: Redis, prefix: str, queues: Sequence[str]) -> None:
        self._client = client
        self._prefix = prefix
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of this moment, in one round trip to Redis."""
        up = GaugeMetricFamily("orderflow_redis_up", "Whether Redis answered this scrape.")
        try:
            replies = self._ask()
        except (RedisError, OSError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield self._job_counts(replies)
        yield self._breakers(replies)

    def _ask(self) -> Iterator[int]:
        pipeline = self._client.pipeline(transaction=False)
        for queue in self._queues:
            for keys in STATES.values():
                for key, kind in keys:
                    name = f"{self._prefix}:{queue}:{key}"
                    pipeline.llen(name) if kind == "list" else pipeline.zcard(name)
        for breaker in BREAKERS:
            pipeline.exists(outage_key(self._prefix, breaker))
        return iter(pipeline.execute())

    def _job_counts(self, sizes: Iterator[int]) -> GaugeMetricFamily:
        counts = GaugeMetricFamily(
            "bullmq_job_count", "Number of jobs in a queue by state.", labels=["queue", "state"]
        )
        for queue in self._queues:
            for state, keys in STATES.items():
                counts.add_metric([queue, state], sum(next(sizes) for _ in keys))
        return counts

    def _breakers(self, replies: Iterator[int]) -> GaugeMetricFamily:
        breakers = GaugeMetricFamily(
            "orderflow_breaker_open",
            "Whether a process leaves this alone because it failed.",
            labels=["breaker"],
        )
        for breaker in BREAKERS:
            breakers.add_metric([breaker], next(replies))
        return breakers
