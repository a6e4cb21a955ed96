"""The notification worker: tells each customer how the order ended, and what becomes of it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orderflow.contract import (
    CONCURRENCY,
    JobName,
    OrderConfirmationJob,
    OrderEventJob,
    OrderRefundedJob,
    PaymentFailedJob,
    QueueName,
)
from orderflow.events import tell_event
from orderflow.notify import notify_customer
from orderflow.processor import QueueWorker
from orderflow.resources import Resources
from orderflow.senders import Sender

worker = QueueWorker(QueueName.NOTIFICATIONS, CONCURRENCY[QueueName.NOTIFICATIONS])


@worker.handles(JobName.ORDER_CONFIRMATION, OrderConfirmationJob)
async def order_confirmation(job: OrderConfirmationJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is confirmed."""
    return await _notify(JobName.ORDER_CONFIRMATION, job.order_id, resources)


@worker.handles(JobName.PAYMENT_FAILED, PaymentFailedJob)
async def payment_failed(job: PaymentFailedJob, resources: Resources) -> dict[str, Any]:
    """Say that the payment was declined."""
    return await _notify(JobName.PAYMENT_FAILED, job.order_id, resources)


@worker.handles(JobName.ORDER_SHIPPED, OrderEventJob)
async def order_shipped(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is on its way."""
    return await _tell(JobName.ORDER_SHIPPED, job.order_id, None, resources)


@worker.handles(JobName.ORDER_DELIVERED, OrderEventJob)
async def order_delivered(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order has come."""
    return await _tell(JobName.ORDER_DELIVERED, job.order_id, None, resources)


@worker.handles(JobName.ORDER_CANCELLED, OrderEventJob)
async def order_cancelled(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is cancelled."""
    return await _tell(JobName.ORDER_CANCELLED, job.order_id, None, resources)


@worker.handles(JobName.ORDER_REFUNDED, OrderRefundedJob)
async def order_refunded(job: OrderRefundedJob, resources: Resources) -> dict[str, Any]:
    """Say that money is given back."""
    return await _tell(JobName.ORDER_REFUNDED, job.order_id, job.refund_id, resources)


async def _notify(kind: JobName, order_id: str, resources: Resources) -> dict[str, Any]:
    return await notify_customer(
        kind,
        order_id,
        db=resources.db,
        senders=_senders(kind, resources),
        templates=resources.templates,
        claim_s=resources.settings.claim_s,
    )


async def _tell(
    kind: JobName, order_id: str, refund_id: UUID | None, resources: Resources
) -> dict[str, Any]:
    return await tell_event(
        kind,
        order_id,
        refund_id,
        db=resources.db,
        senders=_senders(kind, resources),
        templates=resources.templates,
        claim_s=resources.settings.claim_s,
    )


def _senders(kind: JobName, resources: Resources) -> Sequence[Sender]:
    channels = resources.settings.channels_of(kind)
    return [sender for sender in resources.senders if sender.channel in channels]
