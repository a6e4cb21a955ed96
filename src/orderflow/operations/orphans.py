"""Orphans: payment jobs whose order PostgreSQL does not have.

Of a producer outside of orderflow they are new orders, which a worker adopts. After PostgreSQL was
restored from a backup they are also orders that it has lost: nobody knows who placed them, and a
worker would adopt and charge them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import ValidationError

from orderflow.bull import steering
from orderflow.bull.places import JobPlace
from orderflow.bull.queues import JobQueues
from orderflow.bull.reading import StoredJob, read_page
from orderflow.contract import PaymentJob, PaymentMethod, QueueName, row_id
from orderflow.db import Database
from orderflow.errors import JobNotFound
from orderflow.operations.audit import Actor, audited
from orderflow.operations.jobs import moment

_PAGE = 500

#: Those of a job that may still charge; what completed says nothing that the books do not say.
_PLACES = (JobPlace.WAITING, JobPlace.PAUSED, JobPlace.DELAYED, JobPlace.ACTIVE, JobPlace.FAILED)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A payment job without its order; ids as its producer wrote them."""

    queue: str
    job_id: str
    state: str
    payment_id: str
    order_id: str
    method: PaymentMethod
    amount: Decimal
    added_at: datetime | None


async def find_orphans(*, db: Database, queues: JobQueues) -> list[Orphan]:
    """Return the payment jobs that may still charge, and whose order is not known.

    All such jobs are read: have the workers stopped, or some may be missed. Raises
    DatabaseUnavailable or redis.RedisError.
    """
    found: list[Orphan] = []
    for queue in queues.names.shards_of(QueueName.PAYMENTS):
        for place in _PLACES:
            async for jobs in _pages(queues, queue, place):
                found += await _without_order(jobs, place, db)
    return found


async def remove_orphans(
    orphans: Sequence[Orphan], actor: Actor, *, db: Database, queues: JobQueues
) -> int:
    """Remove these jobs, so that nobody charges them; return how many were still there.

    Raises JobIsRunning where a worker has one of them.
    """
    removed = 0
    async with audited(actor, "remove orphans", QueueName.PAYMENTS, db=db) as note:
        for orphan in orphans:
            with suppress(JobNotFound):
                await steering.remove(queues, orphan.queue, orphan.job_id)
                removed += 1
        note.details["jobs"] = removed
    return removed


async def _pages(
    queues: JobQueues, queue: str, place: JobPlace
) -> AsyncIterator[Sequence[StoredJob]]:
    start, total = 0, 1
    while start < total:
        total, jobs = await read_page(queues, queue, place, start, _PAGE)
        yield jobs
        start += _PAGE


async def _without_order(jobs: Sequence[StoredJob], place: JobPlace, db: Database) -> list[Orphan]:
    asked = {job.job_id: payload for job in jobs if (payload := _payload(job)) is not None}
    ids = [row_id(payload.order_id) for payload in asked.values()]
    known: set[UUID] = {row["id"] for row in await db.fetch("known_orders", ids)}
    return [
        Orphan(
            queue=job.queue,
            job_id=job.job_id,
            state=place.value,
            payment_id=asked[job.job_id].payment_id,
            order_id=asked[job.job_id].order_id,
            method=asked[job.job_id].payment_data.method,
            amount=asked[job.job_id].payment_data.amount,
            added_at=moment(job.added_ms),
        )
        for job in jobs
        if job.job_id in asked and row_id(asked[job.job_id].order_id) not in known
    ]


def _payload(job: StoredJob) -> PaymentJob | None:
    """Read a job's data; None for one that no worker would charge either."""
    try:
        return PaymentJob.model_validate(job.data)
    except ValidationError:
        return None
