"""What PostgreSQL says of the webhooks: how many wait, and for how long the oldest does."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from orderflow.db import Reads
from orderflow.orders import Row
from orderflow.webhooks.endpoints import COUNTED


async def count_webhooks(db: Reads) -> Sequence[Row]:
    """Return what `webhook_metrics` tells of."""
    return await db.fetch("count_webhooks", COUNTED)


def webhook_metrics(rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics of the webhooks. What waits for a disabled endpoint is no delay."""
    endpoints = GaugeMetricFamily(
        "orderflow_webhook_endpoints", "Endpoints that webhooks go to.", labels=["state"]
    )
    counts = {row["enabled"]: row["endpoints"] for row in rows}
    endpoints.add_metric(["enabled"], counts.get(True, 0))
    endpoints.add_metric(["disabled"], counts.get(False, 0))
    waiting = GaugeMetricFamily(
        "orderflow_webhooks_waiting",
        "Webhooks to be delivered to endpoints that are enabled, 10,000 for each at most.",
    )
    oldest = GaugeMetricFamily(
        "orderflow_webhooks_oldest_waiting_seconds",
        "How long ago that was which the oldest waiting webhook tells of, 0 if there is none.",
    )
    waiting.add_metric([], sum(row["waiting"] for row in rows))
    oldest.add_metric([], max((row["oldest_s"] for row in rows), default=0))
    return [endpoints, waiting, oldest]
