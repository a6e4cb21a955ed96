"""The order worker: reconciliation, refunds, webhooks, and whatever else goes by the clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

from orderflow.books import GRACE, compare_books
from orderflow.bull.queues import Schedule
from orderflow.contract import (
    CONCURRENCY,
    GatewayEventJob,
    JobName,
    Payload,
    QueueName,
    RefundJob,
)
from orderflow.gateway_events import handle_event
from orderflow.operations.failures import purge_failures
from orderflow.processor import QueueWorker
from orderflow.reconcile import RUN_AT_MOST_S, Rules, run_once
from orderflow.refund import give_back
from orderflow.resources import Resources
from orderflow.webhooks.courier import deliver_webhooks
from orderflow.webhooks.deliveries import purge_deliveries

worker = QueueWorker(
    QueueName.ORDERS,
    CONCURRENCY[QueueName.ORDERS],
    schedules=lambda settings: (
        Schedule(JobName.RECONCILE, settings.reconcile_interval_ms),
        Schedule(JobName.COMPARE_BOOKS, settings.books_interval_s * 1_000),
    ),
    beside=(deliver_webhooks,),
)


# A run ends by itself, with the page that it is on.
@worker.handles(JobName.RECONCILE, Payload, timeout_ms=round(2_000 * RUN_AT_MOST_S))
async def reconcile(_job: Payload, resources: Resources) -> dict[str, Any]:
    """Compare rows with jobs, and make them agree; forget what is old."""
    counts = await run_once(
        db=resources.db,
        queues=resources.queues,
        gateway=resources.gateway,
        grace_ms=resources.settings.reconcile_grace_ms,
        rules=Rules.from_settings(resources.settings),
    )
    purged = await purge_failures(resources.settings.failure_retention_s, db=resources.db)
    webhooks_purged = await purge_deliveries(db=resources.db)
    return {**counts.to_json(), "failures_purged": purged, "webhooks_purged": webhooks_purged}


@worker.handles(JobName.REFUND_PAYMENT, RefundJob)
async def refund_payment(job: RefundJob, resources: Resources) -> dict[str, Any]:
    """Give money back."""
    return await give_back(
        job,
        db=resources.db,
        gateway=resources.gateway,
        queues=resources.queues,
        charge_at_most=Rules.from_settings(resources.settings).charge_at_most,
    )


@worker.handles(JobName.GATEWAY_EVENT, GatewayEventJob)
async def gateway_event(job: GatewayEventJob, resources: Resources) -> dict[str, Any]:
    """Do what an event of the gateway asks for."""
    return await handle_event(
        job, db=resources.db, gateway=resources.gateway, queues=resources.queues
    )


#: Longer than it takes to read the books of two days of a large shop.
_BOOKS_AT_MOST_MS = 3_600_000


@worker.handles(JobName.COMPARE_BOOKS, Payload, timeout_ms=_BOOKS_AT_MOST_MS)
async def compare(_job: Payload, resources: Resources) -> dict[str, Any]:
    """Compare the gateway's books with ours, of twice the time that lies between two runs."""
    until = datetime.now(UTC) - GRACE
    since = until - timedelta(seconds=2 * resources.settings.books_interval_s)
    compared = await compare_books(since, until, db=resources.db, gateway=resources.gateway)
    return compared.to_json()
