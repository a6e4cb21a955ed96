"""The order worker: reconciliation, and whatever else an order needs by the clock."""

from typing import Any

from orderflow.bull.queues import Schedule
from orderflow.contract import CONCURRENCY, GatewayEventJob, JobName, Payload, QueueName
from orderflow.gateway_events import handle_event
from orderflow.operations.failures import purge_failures
from orderflow.processor import QueueWorker
from orderflow.reconcile import RUN_AT_MOST_S, Rules, run_once
from orderflow.resources import Resources

worker = QueueWorker(
    QueueName.ORDERS,
    CONCURRENCY[QueueName.ORDERS],
    schedules=lambda settings: (Schedule(JobName.RECONCILE, settings.reconcile_interval_ms),),
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
    return {**counts.to_json(), "failures_purged": purged}


@worker.handles(JobName.GATEWAY_EVENT, GatewayEventJob)
async def gateway_event(job: GatewayEventJob, resources: Resources) -> dict[str, Any]:
    """Do what an event of the gateway asks for."""
    return await handle_event(
        job, db=resources.db, gateway=resources.gateway, queues=resources.queues
    )
