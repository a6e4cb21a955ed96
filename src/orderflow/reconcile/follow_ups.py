"""Reading what is to follow after a payment, page by page.

That is refunds without an outcome, and events that nobody was told of: each row is the intent of
one job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.contract import (
    JobName,
    NewJob,
    order_event_job,
    order_refunded_job,
    refund_job,
)
from orderflow.db import Database
from orderflow.orders import Row
from orderflow.reconcile.decide import TO_DO, TO_TELL, Decision, NoWord
from orderflow.reconcile.look import PAGE_SIZE, Case

_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class FollowUps:
    """What one run looks at beside the unsettled orders; `grace_ms` as there."""

    def __init__(self, db: Database, queues: JobQueues, grace_ms: int) -> None:
        self._db = db
        self._queues = queues
        self._grace_s = grace_ms / 1000

    def refunds(self) -> AsyncIterator[Sequence[Case]]:
        """Give the refunds that have no outcome, oldest first, a page at a time."""
        return self._pages("open_refunds", _refund_job, TO_DO)

    def events(self) -> AsyncIterator[Sequence[Case]]:
        """Give the events that nobody was told of, oldest first, a page at a time."""
        return self._pages("untold_events", _event_job, TO_TELL)

    async def _pages(
        self, query: str, wanted: Callable[[Row], NewJob], decisions: dict[JobState, Decision]
    ) -> AsyncIterator[Sequence[Case]]:
        after = _START
        while True:
            rows = await self._db.fetch(query, *after, PAGE_SIZE, self._grace_s)
            if not rows:
                return
            jobs = [wanted(row) for row in rows]
            states = await self._queues.states(jobs)
            yield [
                Case(
                    row,
                    job,
                    state,
                    NoWord.NOT_ASKED,
                    decisions[state],
                    mark="mark_event_told",
                    subject=row["subject"],
                )
                for row, job, state in zip(rows, jobs, states, strict=True)
            ]
            after = (rows[-1]["created_at"], rows[-1]["subject"])


def _refund_job(row: Row) -> NewJob:
    return refund_job(row["subject"], row["external_id"] or str(row["id"]))


def _event_job(row: Row) -> NewJob:
    order_key = row["external_id"] or str(row["id"])
    if row["refund_id"] is not None:
        return order_refunded_job(row["refund_id"], order_key, row["user_id"])
    return order_event_job(JobName(row["kind"]), order_key, row["user_id"])
