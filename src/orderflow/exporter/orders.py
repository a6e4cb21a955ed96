"""What PostgreSQL says of the orders: whether what must hold does, and how old the oldest is."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from orderflow.db import Database
from orderflow.errors import DatabaseRefused, DatabaseUnavailable
from orderflow.invariants import count_violations
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

#: By far more than come between two scrapes.
_ORDERS_LOOKED_AT = 10_000


async def order_metrics(db: Database, settings: Settings) -> list[Metric]:
    """Return the metrics of this moment, or `orderflow_postgres_up` alone, as 0."""
    up = GaugeMetricFamily("orderflow_postgres_up", "Whether PostgreSQL answered.")
    try:
        oldest, found = await asyncio.gather(
            db.fetchrow("oldest_unsettled"), count_violations(db, settings, _ORDERS_LOOKED_AT)
        )
    except (DatabaseUnavailable, DatabaseRefused) as error:
        log.warning("orders not looked at", reason=error.reason)
        up.add_metric([], 0)
        return [up]
    up.add_metric([], 1)
    age = GaugeMetricFamily(
        "orderflow_orders_oldest_unsettled_seconds",
        "Age of the oldest order whose customer is not yet told how it ended.",
    )
    age.add_metric([], oldest["age_s"] if oldest is not None else 0)
    violations = GaugeMetricFamily(
        "orderflow_invariant_violations",
        "How often what must hold of all orders does not.",
        labels=["invariant"],
    )
    for invariant, count in found.items():
        violations.add_metric([invariant], count)
    return [up, age, violations]
