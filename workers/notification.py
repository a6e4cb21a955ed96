"""The notification worker: tells each customer how the order ended, and what becomes of it."""

from typing import Any

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

worker = QueueWorker(QueueName.NOTIFICATIONS, CONCURRENCY[QueueName.NOTIFICATIONS])


@worker.handles(JobName.ORDER_CONFIRMATION, OrderConfirmationJob)
async def order_confirmation(job: OrderConfirmationJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is confirmed."""
    return await notify_customer(job.order_id, **resources.telling(JobName.ORDER_CONFIRMATION))


@worker.handles(JobName.PAYMENT_FAILED, PaymentFailedJob)
async def payment_failed(job: PaymentFailedJob, resources: Resources) -> dict[str, Any]:
    """Say that the payment was declined."""
    return await notify_customer(job.order_id, **resources.telling(JobName.PAYMENT_FAILED))


@worker.handles(JobName.ORDER_SHIPPED, OrderEventJob)
async def order_shipped(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is on its way."""
    return await tell_event(job.order_id, **resources.telling(JobName.ORDER_SHIPPED))


@worker.handles(JobName.ORDER_DELIVERED, OrderEventJob)
async def order_delivered(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order has come."""
    return await tell_event(job.order_id, **resources.telling(JobName.ORDER_DELIVERED))


@worker.handles(JobName.ORDER_CANCELLED, OrderEventJob)
async def order_cancelled(job: OrderEventJob, resources: Resources) -> dict[str, Any]:
    """Say that the order is cancelled."""
    return await tell_event(job.order_id, **resources.telling(JobName.ORDER_CANCELLED))


@worker.handles(JobName.ORDER_REFUNDED, OrderRefundedJob)
async def order_refunded(job: OrderRefundedJob, resources: Resources) -> dict[str, Any]:
    """Say that money is given back."""
    return await tell_event(
        job.order_id, job.refund_id, **resources.telling(JobName.ORDER_REFUNDED)
    )
