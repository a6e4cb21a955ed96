"""The notification worker: tells each customer how the order ended."""

from typing import Any

from orderflow.contract import (
    CONCURRENCY,
    JobName,
    OrderConfirmationJob,
    PaymentFailedJob,
    QueueName,
)
from orderflow.notify import notify_customer
from orderflow.processor import QueueWorker
from orderflow.resources import Resources

worker = QueueWorker(QueueName.NOTIFICATIONS, CONCURRENCY[QueueName.NOTIFICATIONS])


@worker.handles(JobName.ORDER_CONFIRMATION, OrderConfirmationJob)
async def order_confirmation(job: OrderConfirmationJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is confirmed."""
    return await _notify(JobName.ORDER_CONFIRMATION, job.order_id, resources)


@worker.handles(JobName.PAYMENT_FAILED, PaymentFailedJob)
async def payment_failed(job: PaymentFailedJob, resources: Resources) -> dict[str, Any]:
    """Say that the payment was declined."""
    return await _notify(JobName.PAYMENT_FAILED, job.order_id, resources)


async def _notify(kind: JobName, order_id: str, resources: Resources) -> dict[str, Any]:
    channels = resources.settings.channels_of(kind)
    return await notify_customer(
        kind,
        order_id,
        db=resources.db,
        senders=[sender for sender in resources.senders if sender.channel in channels],
        templates=resources.templates,
        claim_s=resources.settings.claim_s,
    )
