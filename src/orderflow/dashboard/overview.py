"""The first page: the queues, who works on them, and how the servers and the orders are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from orderflow.bull.history import History, read_history
from orderflow.dashboard.charts import Chart, minutes_chart
from orderflow.dashboard.live import Shared
from orderflow.dashboard.pages import Context, Visit
from orderflow.dashboard.unknown import Unknown, or_unknown
from orderflow.db import Reads
from orderflow.operations.health import (
    PostgresHealth,
    RedisHealth,
    last_reconciler_run,
    postgres_health,
    redis_health,
    violated_invariants,
)
from orderflow.operations.queues import QueueSummary, list_queues
from orderflow.operations.workers import list_workers
from orderflow.resources import Resources

_CHART_MIN = 60
#: How old may be what changes slowly, or costs more to find out.
_SERVERS_FOR_S = 5.0
_INVARIANTS_FOR_S = 15.0


@dataclass(frozen=True, slots=True)
class QueueCard:
    """A queue, and what ended in its last hour."""

    queue: QueueSummary
    history: History
    chart: Chart


class Overview:
    """The page. It is looked at once a second at most, however many people see it."""

    def __init__(self) -> None:
        self._shared: Shared[Context] | None = None

    async def __call__(self, visit: Visit) -> Response:
        """Answer the page, or the stream that keeps it up to date."""
        if self._shared is None:
            self._shared = Shared(_Look(visit.resources, visit.reads).at_all)
        return await visit.live("overview", self._shared.get)


class _Look:
    """Asks the servers. One that is away leaves its part of the page unknown, and no other."""

    def __init__(self, resources: Resources, reads: Reads) -> None:
        self._resources = resources
        self._reads = reads
        self._redis = Shared(self._redis_health, _SERVERS_FOR_S)
        self._postgres = Shared(self._postgres_health, _SERVERS_FOR_S)
        self._violations = Shared(self._violated, _INVARIANTS_FOR_S)

    async def at_all(self) -> Context:
        cards, fleet, run, redis, postgres, violations = await asyncio.gather(
            or_unknown(self._cards()),
            or_unknown(
                list_workers(queues=self._resources.queues, settings=self._resources.settings)
            ),
            or_unknown(last_reconciler_run(self._resources.queues)),
            self._redis.get(),
            self._postgres.get(),
            self._violations.get(),
        )
        return {
            "cards": cards,
            "fleet": fleet,
            "run": run,
            "redis": redis,
            "postgres": postgres,
            "replica": self._reads.replica,
            "violations": violations,
        }

    async def _cards(self) -> list[QueueCard]:
        queues = await list_queues(queues=self._resources.queues)
        return await asyncio.gather(*map(self._card, queues))

    async def _card(self, queue: QueueSummary) -> QueueCard:
        history = await read_history(self._resources.queues, queue.name, _CHART_MIN)
        return QueueCard(queue, history, minutes_chart(history.completed, history.failed))

    async def _redis_health(self) -> list[RedisHealth] | Unknown:
        return await or_unknown(redis_health(self._resources.queues))

    async def _postgres_health(self) -> PostgresHealth | Unknown:
        return await or_unknown(postgres_health(self._resources.db))

    async def _violated(self) -> object:
        return await or_unknown(violated_invariants(self._reads, self._resources.settings))
