"""Adding jobs to the queues from a service of your own, as Node producers do.

    async with JobProducer("redis://127.0.0.1:6379/0") as producer:
        await producer.process_payment("7001", "4711", "card", Decimal("19.99"))

The names, options and priorities are those of the contract, and what a worker could not read is
refused here, before it is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Self

from orderflow.bull.clients import QueueClients
from orderflow.bull.queues import JobQueues
from orderflow.contract import (
    NewJob,
    OrderConfirmationJob,
    PaymentFailedJob,
    PaymentJob,
    Priorities,
    Priority,
    order_confirmation_job,
    payment_failed_job,
    payment_job,
    read_payload,
)
from orderflow.queue_names import QueueNames
from orderflow.redis_servers import RedisServers

_TIMEOUT_MS = 2_000
#: How deep a queue may be is asked of offers, which leave a job to the reconciler. There is none
#: for the jobs of other services: theirs are added, or fail.
_ANY_DEPTH = 2**53


class JobProducer:
    """Adds jobs, over one connection; in a cluster one for each queue. Use it as an async context.

    Of a Redis that is found by Sentinel, or is a cluster, RedisServers say where it is.
    `prefix`, `shards` and `priorities` are QUEUE_PREFIX, QUEUE_SHARDS and PRIORITY_HIGH, _MEDIUM
    and _LOW of the workers.
    Each method returns the id of the job, which for jobs of the contract is made of what they are
    about: to add one again does nothing while the first exists, so after a redis.RedisError, which
    comes when Redis does not answer within 2 s, it is safe to add it again.
    """

    def __init__(
        self,
        redis_url: str | RedisServers,
        *,
        prefix: str = "bull",
        priorities: Priorities | None = None,
        shards: int = 1,
    ) -> None:
        self._priorities = priorities or Priorities()
        servers = RedisServers(redis_url) if isinstance(redis_url, str) else redis_url
        names = QueueNames(prefix, shards)
        names.check(cluster=servers.cluster)
        self._clients = QueueClients.to(servers, _TIMEOUT_MS)
        self._queues = JobQueues(self._clients, names, self._priorities, _ANY_DEPTH)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._clients.aclose()

    async def process_payment(
        self, payment_id: str, order_id: str, method: str, amount: Decimal
    ) -> str:
        """Have an order charged. One that orderflow does not know is adopted.

        The payment's id is the gateway's idempotency key. Raises InvalidPayload.
        """
        job = payment_job(str(payment_id), str(order_id), method, amount)
        read_payload(job.name, job.data, PaymentJob)
        return await self._add(job)

    async def order_confirmation(self, order_id: str, user_id: str | None = None) -> str:
        """Have the customer told that the order is confirmed. Raises InvalidPayload."""
        job = order_confirmation_job(str(order_id), user_id)
        read_payload(job.name, job.data, OrderConfirmationJob)
        return await self._add(job)

    async def payment_failed(
        self, order_id: str, user_id: str | None = None, reason: str = "declined"
    ) -> str:
        """Have the customer told that the payment was declined. Raises InvalidPayload."""
        job = payment_failed_job(str(order_id), user_id, reason)
        read_payload(job.name, job.data, PaymentFailedJob)
        return await self._add(job)

    async def add(
        self,
        queue: str,
        name: str,
        data: Mapping[str, Any],
        *,
        priority: Priority = Priority.MEDIUM,
        job_id: str | None = None,
    ) -> str:
        """Add a job of your own, for a worker of your own.

        Without a `job_id` each call adds a job. Raises ValueError for an id that Node refuses.
        """
        options: dict[str, Any] = {"priority": self._priorities.number(priority)}
        if job_id is not None:
            options["jobId"] = job_id
        job = await self._queues.queue(queue).add(name, dict(data), options)
        return str(job.id)

    async def _add(self, job: NewJob) -> str:
        await self._queues.add(job)
        return job.job_id
