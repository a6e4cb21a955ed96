"""What PostgreSQL says of the orders: whether what must hold does, and how old the oldest is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import product

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from orderflow.books import DifferenceKind
from orderflow.db import Reads
from orderflow.errors import DatabaseRefused, DatabaseUnavailable
from orderflow.exporter.webhooks import count_webhooks, webhook_metrics
from orderflow.gateways import EntryKind
from orderflow.invariants import count_violations
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

#: More than come between two scrapes of most shops.
_ORDERS_LOOKED_AT = 10_000


class OrderMetrics:
    """The metrics of the orders in `db`.

    To compare thousands of orders with their payments takes longer than a scrape may. So each
    scrape begins a comparison, tells what the one before it found, and waits for the first only.
    """

    def __init__(self, db: Reads, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._found: Mapping[str, int] = {}
        self._comparing: asyncio.Task[Mapping[str, int]] | None = None

    async def collect(self) -> list[Metric]:
        """Return the metrics of this moment, or `orderflow_postgres_up` alone, as 0."""
        up = GaugeMetricFamily(
            "orderflow_postgres_up", "Whether PostgreSQL answered when it was asked last."
        )
        try:
            oldest, found, differences, webhooks = await asyncio.gather(
                self._db.fetchrow("oldest_unsettled"),
                self._violations(),
                self._db.fetch("count_differences"),
                count_webhooks(self._db),
            )
        except (DatabaseUnavailable, DatabaseRefused) as error:
            log.warning("orders not looked at", reason=error.reason)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        age = GaugeMetricFamily(
            "orderflow_orders_oldest_unsettled_seconds",
            "Age of the oldest order whose customer is not yet told how it ended, 0 if none is.",
        )
        age.add_metric([], oldest["age_s"] if oldest is not None else 0)
        violations = GaugeMetricFamily(
            "orderflow_invariant_violations",
            "How often what must hold of all orders does not.",
            labels=["invariant"],
        )
        for invariant, count in found.items():
            violations.add_metric([invariant], count)
        books = GaugeMetricFamily(
            "orderflow_book_differences",
            "Entries of which the gateway's books and ours have not the same.",
            labels=["entry", "kind"],
        )
        # From 0 on, so that the first one is seen as a rise.
        counts = dict.fromkeys(product(EntryKind, DifferenceKind), 0)
        counts |= {(row["entry"], row["kind"]): row["differences"] for row in differences}
        for (entry, kind), count in counts.items():
            books.add_metric([entry, kind], count)
        return [up, age, violations, books, *webhook_metrics(webhooks)]

    async def _violations(self) -> Mapping[str, int]:
        last = self._comparing
        if last is not None and not last.done():
            return self._found
        began = self._comparing = asyncio.create_task(
            count_violations(self._db, self._settings, _ORDERS_LOOKED_AT)
        )
        if last is None or last.exception() is not None:
            self._found = await began
        else:
            self._found = last.result()
        return self._found
