"""Reconciling: what the rows want and the queues have is compared, and what is missing is added.

PostgreSQL is the truth. An order whose customer was not told yet needs a job: one that charges
while its payment is open, one that notifies after. Where Redis has lost it, or where it has
failed, it is put back; where a worker in Node has done it, its result goes into the rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from orderflow.bull.queues import JobQueues, JobState
from orderflow.charge import write_outcome
from orderflow.contract import (
    JobName,
    NewJob,
    PaymentMethod,
    QueueName,
    gateway_key,
    order_confirmation_job,
    payment_failed_job,
    payment_job,
)
from orderflow.db import Database
from orderflow.errors import GatewayUnavailable
from orderflow.gateways import Approved, Declined, Gateway, Outcome
from orderflow.orders import OrderStatus, Row

log = structlog.get_logger(__name__)

PAGE_SIZE = 500
#: A run that waits for room in a queue ends after this, and the next one begins with the oldest.
RUN_AT_MOST_S = 60.0
_LOOK_FOR_ROOM_S = 0.05
_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


@dataclass(slots=True)
class Counts:
    """What one run saw and did: nothing while `another_runs`."""

    another_runs: bool = False
    unsettled: int = 0
    jobs_added: int = 0
    jobs_retried: int = 0
    results_taken: int = 0
    keys_purged: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


async def run_once(*, db: Database, queues: JobQueues, gateway: Gateway, grace_ms: int) -> Counts:
    """Look at every unsettled order that rested for `grace_ms`, oldest first, page by page.

    Jobs are added only as far as their queue has room; the run waits for it. One run at a time:
    another one, wherever it is, does nothing.

    Raises DatabaseUnavailable or redis.RedisError; what was done until then stays done.
    """
    # Nothing is written in this transaction: it holds the lock, and with its end lets go of it.
    async with db.transaction() as transaction:
        lock = await transaction.fetchrow("lock_reconciler")
        if lock is None or not lock["mine"]:
            return Counts(another_runs=True)
        return await _run(db, queues, gateway, grace_ms)


async def _run(db: Database, queues: JobQueues, gateway: Gateway, grace_ms: int) -> Counts:
    counts = Counts()
    after = _START
    ends_at = time.monotonic() + RUN_AT_MOST_S
    while time.monotonic() < ends_at:
        rows = await db.fetch("unsettled_orders", *after, grace_ms / 1000, PAGE_SIZE)
        await _put_back(rows, db, queues, gateway, counts, ends_at)
        counts.unsettled += len(rows)
        if len(rows) < PAGE_SIZE:
            break
        after = (rows[-1]["created_at"], rows[-1]["id"])
    counts.keys_purged = len(await db.fetch("purge_idempotency_keys", 1_000))
    log.info("reconciled", **counts.to_json())
    return counts


def _wanted(row: Row) -> NewJob:
    """Return the job that an unsettled order needs next."""
    order_key = row["external_id"] or str(row["id"])
    match OrderStatus(row["status"]):
        case OrderStatus.PENDING | OrderStatus.PROCESSING:
            payment_key = row["payment_external_id"] or str(row["payment_id"])
            return payment_job(payment_key, order_key, row["method"], row["amount"])
        case OrderStatus.CANCELLED:
            return payment_failed_job(
                order_key, row["user_id"], row["decline_reason"] or "cancelled"
            )
        case _:
            return order_confirmation_job(order_key, row["user_id"])


async def _put_back(
    rows: Sequence[Row],
    db: Database,
    queues: JobQueues,
    gateway: Gateway,
    counts: Counts,
    ends_at: float,
) -> None:
    jobs = [_wanted(row) for row in rows]
    states = await queues.states(jobs) if jobs else []
    missing = [job for job, state in zip(jobs, states, strict=True) if state is JobState.MISSING]
    counts.jobs_added += await _feed(missing, queues, ends_at)
    for row, job, state in zip(rows, jobs, states, strict=True):
        match state:
            case JobState.MISSING | JobState.LIVE:
                continue
            case JobState.LOST:
                await queues.replace(job)
                counts.jobs_added += 1
            case JobState.FAILED:
                # A kept job blocks a new one with its id, so it runs again instead.
                counts.jobs_retried += await queues.retry(job, state)
            case JobState.COMPLETED:
                await _take_over(row, job, db, queues, gateway, counts)
        log.info("job put right", job_id=job.job_id, found=state.value)


async def _feed(missing: Sequence[NewJob], queues: JobQueues, ends_at: float) -> int:
    """Add the jobs as their queues have room for them, in order; return how many by `ends_at`."""
    added = 0
    for queue in QueueName:
        jobs = [job for job in missing if job.queue is queue]
        while jobs and time.monotonic() < ends_at:
            room = await queues.room(queue)
            if room == 0:
                await asyncio.sleep(_LOOK_FOR_ROOM_S)
                continue
            now, jobs = jobs[:room], jobs[room:]
            await queues.add_all(now)
            added += len(now)
    if added:
        log.info("missing jobs added", jobs=added)
    return added


async def _take_over(
    row: Row, job: NewJob, db: Database, queues: JobQueues, gateway: Gateway, counts: Counts
) -> None:
    """Write down what a job came to that ended without our rows: a worker in Node ran it.

    To run it again would charge or tell a second time, as far as that worker allows it.
    """
    if job.name is not JobName.PROCESS_PAYMENT:
        await db.fetchrow("mark_notified", row["id"])
        counts.results_taken += 1
        return
    try:
        outcome = await _known_to(gateway, row) or _outcome(await queues.result(job))
    except GatewayUnavailable:
        return  # the next run asks again
    if outcome is None:
        counts.jobs_retried += await queues.retry(job, JobState.COMPLETED)
        return
    await write_outcome(row["payment_id"], outcome, db)
    counts.results_taken += 1


async def _known_to(gateway: Gateway, row: Row) -> Outcome | None:
    """Ask the gateway, whose word on money is better than that of a job in Redis."""
    if PaymentMethod(row["method"]) is PaymentMethod.CASH:
        return None
    return await gateway.find(gateway_key(row["payment_external_id"] or str(row["payment_id"])))


def _outcome(result: Any) -> Outcome | None:
    """Read the result of a payment job as the contract has it; None if it does not say enough."""
    match result:
        case {"success": True, "transactionId": str(transaction_id)} if transaction_id:
            return Approved(transaction_id)
        case {"success": False}:
            return Declined(str(result.get("reason") or "declined"))
    return None
