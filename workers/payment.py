"""The payment worker: charges each payment once and sends its order on."""

from typing import Any

from orderflow.charge import charge_payment
from orderflow.contract import CONCURRENCY, JobName, PaymentJob, QueueName
from orderflow.processor import QueueWorker
from orderflow.resources import Resources

worker = QueueWorker(QueueName.PAYMENTS, CONCURRENCY[QueueName.PAYMENTS])


@worker.handles(JobName.PROCESS_PAYMENT, PaymentJob)
async def process_payment(job: PaymentJob, resources: Resources) -> dict[str, Any]:
    """Bring a payment to its outcome."""
    return await charge_payment(
        job,
        db=resources.db,
        gateway=resources.gateway,
        queues=resources.queues,
        currency=resources.settings.default_currency,
    )
