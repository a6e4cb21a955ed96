"""Which orders have come to their end, so that nobody waits for anything of them any more.

Only those are deleted, or have their person taken out. What is open keeps all that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.contract import (
    JobName,
    NewJob,
    gateway_event_job,
    order_confirmation_job,
    order_event_job,
    order_refunded_job,
    payment_failed_job,
    payment_job,
    refund_job,
)
from orderflow.orders import OPEN_ORDER, ORDER_TRANSITIONS, OrderStatus, Row


class Reason(StrEnum):
    """Why an order has not come to its end, where its status does not say it. `why_kept` asks."""

    NOT_TOLD = "its customer is not told"
    REFUND = "a refund is under way"
    MONEY = "its money is not given back"
    STRAY = "a stray charge is not given back"
    BOOKS = "the books differ"
    EVENT = "an event of the gateway is not done"
    WEBHOOK = "a webhook is not delivered"
    CHANGED = "it changed since"
    JOB = "a job of it waits or runs"


class Fetches(Protocol):
    """The database, or a transaction on it."""

    async def fetch(self, query: str, *args: object) -> Sequence[Row]:
        """Run the named query and return its rows."""


def end_statuses(*, undelivered: bool) -> list[str]:
    """Return the statuses that an order ends in: those that no other may follow.

    With `undelivered` also those of orders that are paid and may be on their way: in a shop that
    says nothing of its shipments they stay there for ever.
    """
    ends = {status for status, following in ORDER_TRANSITIONS.items() if not following}
    paid = set(OrderStatus) - OPEN_ORDER if undelivered else set()
    return sorted(status.value for status in ends | paid)


async def verdicts(
    order_ids: Sequence[UUID], rest: timedelta, statuses: Sequence[str], db: Fetches
) -> Sequence[Row]:
    """Return of each order its `id`, `payment_id`, and as `kept` why it has not ended.

    `kept` is a Reason or a status, or None for one in which nothing has changed for `rest`.
    """
    return await db.fetch("why_kept", list(order_ids), rest.total_seconds(), list(statuses))


async def jobs_of(order_ids: Sequence[UUID], db: Fetches) -> dict[UUID, list[NewJob]]:
    """Return every job that orderflow itself would have made for each order, by its id."""
    rows = await db.fetch("names_of_jobs", list(order_ids))
    return {row["id"]: _jobs(row) for row in rows}


def _jobs(row: Row) -> list[NewJob]:
    order = row["order_key"]
    return [
        payment_job(row["payment_key"], order, row["method"], row["amount"]),
        order_confirmation_job(order, None),
        payment_failed_job(order, None, ""),
        *(order_event_job(kind, order, None) for kind in _OF_EVENTS),
        *(refund_job(refund, order) for refund in row["refunds"]),
        *(order_refunded_job(refund, order, None) for refund in row["refunds"]),
        *(gateway_event_job(gateway, event) for gateway, event in row["events"]),
    ]


_OF_EVENTS = (JobName.ORDER_SHIPPED, JobName.ORDER_DELIVERED, JobName.ORDER_CANCELLED)

#: A job in one of these is of no use to an order that has ended, and goes with it.
LEFT_OVER = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.PUT_ASIDE, JobState.LOST, JobState.ASTRAY}
)


async def states_of(jobs: Sequence[NewJob], queues: JobQueues) -> list[tuple[NewJob, JobState]]:
    """Return those of the jobs that Redis has, with where they are."""
    states = zip(jobs, await queues.states(jobs), strict=True)
    return [(job, state) for job, state in states if state is not JobState.MISSING]
