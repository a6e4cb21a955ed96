"""Purging: orders that came to their end long ago are deleted, with all that hangs on them.

They go a batch at a time, each in a short transaction of its own, with a rest after each that is as
long as it took: customers have the database to themselves for half of the time at least.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.contract import NewJob
from orderflow.db import Database
from orderflow.ended import LEFT_OVER, Reason, end_statuses, jobs_of, states_of, verdicts
from orderflow.orders import Row

log = structlog.get_logger(__name__)

#: What is younger is still compared with the gateway's books, and retried by its producers.
YOUNGEST = timedelta(days=30)
BATCH = 1_000

_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(slots=True)
class Purged:
    """What was deleted, or would be, and why old orders were kept.

    `rows` counts by table, `kept` by reason, which is a status or an `ended.Reason`.
    """

    rows: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    stopped: bool = False


async def purge_orders(
    older_than: timedelta,
    *,
    db: Database,
    queues: JobQueues,
    stop: asyncio.Event,
    batch: int = BATCH,
    undelivered: bool = False,
    dry_run: bool = False,
    tell: Callable[[Purged], None] = lambda _purged: None,
) -> Purged:
    """Delete the orders that ended, and in which nothing has changed, for `older_than`.

    `undelivered` takes those that are paid and that nobody said were delivered for ended, too.
    After each batch `tell` gets what was done until then, which stays done; once `stop` is set, no
    other batch begins. A `dry_run` counts and changes nothing.

    Raises ValueError for less than YOUNGEST, DatabaseUnavailable or redis.RedisError.
    """
    if older_than < YOUNGEST:
        raise ValueError(f"older_than: must be {YOUNGEST.days} days or more")
    run = _Run(older_than, end_statuses(undelivered=undelivered), db, queues)
    async for order_ids in _pages(older_than, batch, db):
        if stop.is_set():
            run.purged.stopped = True
            break
        began = time.monotonic()
        if order_ids:
            await (run.count(order_ids) if dry_run else run.delete(order_ids))
            tell(run.purged)
        if not dry_run:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), time.monotonic() - began)
    return run.purged


async def _pages(older_than: timedelta, batch: int, db: Database) -> AsyncIterator[list[UUID]]:
    """Give the ids of old orders by pages; one may be empty."""
    for first, before in _ranges(datetime.now(UTC), older_than):
        after = first
        while True:
            seconds = older_than.total_seconds()
            rows = await db.fetch("page_of_orders", after, before, seconds, batch)
            yield [row["id"] for row in rows if row["old"]]
            if len(rows) < batch:
                break
            after = rows[-1]["id"]


def _ranges(now: datetime, older_than: timedelta) -> Iterator[tuple[UUID, UUID]]:
    """Give where old orders lie: ours begin with their time, and those of producers anywhere.

    What lies between is young, but for one in thousands of the producers': its turn comes later.
    """
    yield _FIRST, _id_at(now - older_than)
    yield _id_at(now), _LAST


def _id_at(moment: datetime) -> UUID:
    """Return the first UUIDv7 of a moment."""
    return UUID(int=int(moment.timestamp() * 1_000) << 80)


class _Run:
    """What the batches of a run share."""

    def __init__(
        self,
        older_than: timedelta,
        statuses: Sequence[str],
        db: Database,
        queues: JobQueues,
    ) -> None:
        self.purged = Purged()
        self._older_than = older_than
        self._statuses = statuses
        self._db = db
        self._queues = queues

    async def count(self, order_ids: Sequence[UUID]) -> None:
        """Count what would be deleted of these orders."""
        ended, jobs = await self._ended(order_ids)
        self.purged.jobs += len(jobs)
        if ended:
            row = await self._db.fetchrow("count_orders", *_ids(ended))
            self.purged.rows.update(dict(row or {}))

    async def delete(self, order_ids: Sequence[UUID]) -> None:
        """Delete those of these orders that have ended."""
        ended, jobs = await self._ended(order_ids)
        if not ended:
            return
        # Or a job that is run again some day would be taken for one of a producer, and charged.
        for job in jobs:
            self.purged.jobs += await self._queues.remove(job)
        async with self._db.transaction() as transaction:
            await transaction.fetch("lock_payments", _ids(ended)[1])
            # Somebody may have asked for a refund since.
            still = [row["id"] for row in ended]
            rows = await verdicts(still, self._older_than, self._statuses, transaction)
            ended = [row for row in rows if row["kept"] is None]
            deleted = await transaction.fetchrow("delete_orders", *_ids(ended))
        self.purged.rows.update(dict(deleted or {}))
        log.info("orders purged", orders=len(ended))

    async def _ended(self, order_ids: Sequence[UUID]) -> tuple[Sequence[Row], list[NewJob]]:
        """Return those that have ended, and what Redis still has of their jobs."""
        rows = await verdicts(order_ids, self._older_than, self._statuses, self._db)
        self.purged.kept.update(row["kept"] for row in rows if row["kept"] is not None)
        ended = [row for row in rows if row["kept"] is None]
        jobs = await jobs_of([row["id"] for row in ended], self._db)
        order_of = {job: order for order, named in jobs.items() for job in map(_name, named)}
        all_jobs = [job for named in jobs.values() for job in named]
        found = await states_of(all_jobs, self._queues)
        busy = {order_of[_name(job)] for job, state in found if state not in LEFT_OVER}
        if busy:
            self.purged.kept[Reason.JOB] += len(busy)
        return (
            [row for row in ended if row["id"] not in busy],
            [job for job, _ in found if order_of[_name(job)] not in busy],
        )


def _name(job: NewJob) -> tuple[str, str]:
    return job.queue, job.job_id


def _ids(rows: Sequence[Row]) -> tuple[list[UUID], list[UUID]]:
    """Return the ids of the orders, and those of their payments."""
    return [row["id"] for row in rows], [row["payment_id"] for row in rows]
