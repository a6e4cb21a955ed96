"""Jobs: lists of them by state, one in full, and what can be done to one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel, ValidationError

from orderflow.bull import steering
from orderflow.bull.places import JobPlace, place_of
from orderflow.bull.queues import JobQueues
from orderflow.bull.reading import StoredJob, lock_ms, read_job, read_logs, read_page
from orderflow.bull.scripts import to_json
from orderflow.contract import (
    JobName,
    OrderConfirmationJob,
    OrderEventJob,
    OrderRefundedJob,
    PaymentFailedJob,
    PaymentJob,
    RefundJob,
    order_row_id,
)
from orderflow.db import Database
from orderflow.errors import InvalidPayload, JobNotFound
from orderflow.operations.audit import Actor, Note, audited
from orderflow.operations.failures import Failure, failures_of_job
from orderflow.operations.masking import mask, mask_text, unmask
from orderflow.operations.queues import check_queue, known_queues, read_state

#: Of a job in full: the newest lines of its log, and the newest of its failures.
_LOG_LINES, _FAILURES = 100, 50

_PAYLOADS: Mapping[str, type[BaseModel]] = {
    JobName.PROCESS_PAYMENT: PaymentJob,
    JobName.ORDER_CONFIRMATION: OrderConfirmationJob,
    JobName.PAYMENT_FAILED: PaymentFailedJob,
    JobName.ORDER_SHIPPED: OrderEventJob,
    JobName.ORDER_DELIVERED: OrderEventJob,
    JobName.ORDER_CANCELLED: OrderEventJob,
    JobName.ORDER_REFUNDED: OrderRefundedJob,
    JobName.REFUND_PAYMENT: RefundJob,
}
#: What is known of the data of another service's jobs.
_Anything = RootModel[Any]


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as a list shows it.

    `due_at` is when a delayed one waits for its turn again.
    """

    queue: str
    id: str
    name: str
    state: str
    priority: int
    attempts_made: int
    max_attempts: int
    added_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    failed_reason: str | None
    worker: str | None
    order_id: UUID | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """A part of the jobs in one state: `start` counts from 0, and `total` is of all of them."""

    queue: str
    state: str
    start: int
    total: int
    jobs: Sequence[JobSummary]


@dataclass(frozen=True, slots=True)
class JobDetails:
    """A job in full, personal data and secrets masked.

    `state` is one of BullMQ's, or `lost` where it is in no list, so that nobody would run it.
    `stack` has one entry an attempt, `failures` what PostgreSQL keeps of them, the newest first.
    `lock_ms` is how long the worker's hold on it lasts without a sign of life.
    """

    summary: JobSummary
    data: Any
    opts: Mapping[str, Any]
    return_value: Any
    progress: Any
    stack: Sequence[str]
    logs: Sequence[str]
    attempts_started: int
    stalled: int
    lock_ms: int | None
    parent: str | None
    scheduler: str | None
    failures: Sequence[Failure]


async def list_jobs(
    queue: str, state: str, *, queues: JobQueues, start: int = 0, limit: int = 20
) -> JobPage:
    """Return the jobs of a state from `start` on, `limit` at most.

    Those that wait, are delayed or run come in the order of their turn, ended ones newest first.
    It costs what the page costs, however many jobs there are. Raises UnknownQueue and
    UnknownJobState.
    """
    place = read_state(state)
    await check_queue(queue, queues=queues)
    total, jobs = await read_page(queues, queue, place, start, limit)
    return JobPage(queue, place.value, start, total, [_summary(job, place.value) for job in jobs])


async def find_jobs(job_id: str, *, queues: JobQueues) -> list[JobSummary]:
    """Return the jobs of this id that Redis still has, one of each known queue at most."""
    if not job_id:
        return []
    names = await known_queues(queues)
    jobs = await asyncio.gather(*(read_job(queues, name, job_id) for name in names))
    places = await asyncio.gather(*(place_of(queues, name, job_id) for name in names))
    return [
        _summary(job, str(place)) for job, place in zip(jobs, places, strict=True) if job and place
    ]


async def get_job(queue: str, job_id: str, *, db: Database, queues: JobQueues) -> JobDetails:
    """Return a job in full. Raises UnknownQueue and JobNotFound."""
    await check_queue(queue, queues=queues)
    job, place, logs, left_ms = await asyncio.gather(
        read_job(queues, queue, job_id),
        place_of(queues, queue, job_id),
        read_logs(queues, queue, job_id, _LOG_LINES),
        lock_ms(queues, queue, job_id),
    )
    if job is None or place is None:
        raise JobNotFound(queue=queue, job_id=job_id)
    return JobDetails(
        summary=_summary(job, str(place)),
        data=mask(job.data),
        opts=mask(job.opts),
        return_value=mask(job.return_value),
        progress=mask(job.progress),
        stack=[mask_text(entry) for entry in job.stack],
        logs=[mask_text(line) for line in logs],
        attempts_started=job.attempts_started,
        stalled=job.stalled,
        lock_ms=left_ms,
        parent=job.parent_key,
        scheduler=job.scheduler,
        failures=await failures_of_job(queue, job_id, db=db, limit=_FAILURES),
    )


async def retry_job(
    queue: str,
    job_id: str,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    data: Any = None,
) -> None:
    """Run a job that failed or completed again, its attempts counted anew.

    With `data`, with these in place of its own: what is in them still masked stays what it was.

    Raises UnknownQueue, JobNotFound, JobIsRunning, JobNotInState, or InvalidPayload where the data
    are not what jobs of this name have. Then nothing has changed.
    """
    job = await _found(queue, job_id, queues)
    edited = None
    if data is not None:
        edited = unmask(data, job.data)
        _check_data(job.name, edited)
    action = "retry" if data is None else "retry with edited data"
    async with _audited(actor, action, job, db):
        if not await _retry(queue, job_id, queues, edited):
            raise await steering.refusal(queues, queue, job_id, "failed or completed", "retried")


async def promote_job(
    queue: str, job_id: str, actor: Actor, *, db: Database, queues: JobQueues
) -> None:
    """Let a delayed job wait for its turn now. Raises UnknownQueue, JobNotFound, JobNotInState."""
    job = await _found(queue, job_id, queues)
    async with _audited(actor, "promote", job, db):
        await steering.promote(queues, queue, job_id)


async def remove_job(
    queue: str, job_id: str, actor: Actor, *, db: Database, queues: JobQueues
) -> None:
    """Remove a job, wherever it is. The reconciler adds again what an open order needs.

    Raises UnknownQueue, JobNotFound, JobIsRunning, or JobOfSchedule for the next of a schedule.
    """
    job = await _found(queue, job_id, queues)
    async with _audited(actor, "remove", job, db):
        await steering.remove(queues, queue, job_id)


async def move_to_waiting(
    queue: str, job_id: str, actor: Actor, *, db: Database, queues: JobQueues
) -> None:
    """Let a job wait for its turn from wherever it is: one that ended, is delayed, or was left.

    One that ended has its attempts counted anew; one that a dead worker left comes first, and its
    attempts are as they were. Raises UnknownQueue, JobNotFound, JobNotInState, or JobIsRunning
    while a worker has it.
    """
    job = await _found(queue, job_id, queues)
    async with _audited(actor, "move to waiting", job, db):
        place = await place_of(queues, queue, job_id)
        if place == JobPlace.DELAYED:
            await steering.promote(queues, queue, job_id)
        elif place == JobPlace.ACTIVE:
            await steering.take_back(queues, queue, job_id)
        elif not await _retry(queue, job_id, queues):
            needed = "failed, completed, delayed, or left by a worker that died"
            raise await steering.refusal(queues, queue, job_id, needed, "moved to waiting")


async def _retry(queue: str, job_id: str, queues: JobQueues, data: Any = None) -> bool:
    """Run a job that ended again; False if it has not ended."""
    place = await place_of(queues, queue, job_id)
    return place in (JobPlace.FAILED, JobPlace.COMPLETED) and await steering.retry(
        queues, queue, job_id, JobPlace(place), data
    )


async def _found(queue: str, job_id: str, queues: JobQueues) -> StoredJob:
    await check_queue(queue, queues=queues)
    job = await read_job(queues, queue, job_id)
    if job is None:
        raise JobNotFound(queue=queue, job_id=job_id)
    return job


def _audited(
    actor: Actor, action: str, job: StoredJob, db: Database
) -> AbstractAsyncContextManager[Note]:
    target = f"{job.queue} {job.job_id}"
    return audited(actor, action, target, db=db, order_id=order_row_id(job.data))


def _check_data(job_name: str, data: Any) -> None:
    """Raise InvalidPayload unless the data are what jobs of this name have, as far as is known."""
    faults: list[str] = []
    try:
        to_json(data)
        _PAYLOADS.get(job_name, _Anything).model_validate(data)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'data'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
    except ValueError:
        faults = ["data: a number is not finite, which JSON does not know"]
    if faults:
        raise InvalidPayload(job_name=job_name, faults=faults)


def _summary(job: StoredJob, state: str) -> JobSummary:
    due_ms = None
    if state == JobPlace.DELAYED and job.delay_ms:
        due_ms = (job.processed_ms or job.added_ms or 0) + job.delay_ms
    return JobSummary(
        queue=job.queue,
        id=job.job_id,
        name=job.name,
        state=state,
        priority=job.priority,
        attempts_made=job.attempts_made,
        max_attempts=job.max_attempts,
        added_at=moment(job.added_ms),
        started_at=moment(job.processed_ms),
        ended_at=moment(job.finished_ms),
        due_at=moment(due_ms),
        failed_reason=mask_text(job.failed_reason) if job.failed_reason else None,
        worker=job.worker,
        order_id=order_row_id(job.data),
    )


def moment(unix_ms: int | None) -> datetime | None:
    """Return the time of BullMQ's milliseconds; None for none, or for what is no time."""
    try:
        return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
