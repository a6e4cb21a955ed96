"""The story of one order: all that is known of it, on one line of time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from orderflow.bull.places import place_of
from orderflow.bull.queues import JobQueues
from orderflow.bull.reading import StoredJob, read_job
from orderflow.contract import JobName, QueueName, job_id, row_id
from orderflow.db import Reads
from orderflow.errors import OrderNotFound
from orderflow.operations.audit import Action, actions_on_order
from orderflow.operations.failures import Failure, failures_of_order
from orderflow.operations.jobs import moment
from orderflow.operations.masking import mask_text
from orderflow.orders import OrderStatus, PaymentStatus, Row


@dataclass(frozen=True, slots=True)
class StoryEvent:
    """Something that happened.

    `kind` is order, payment, refund, job, failure, message, charge (a stray one), gateway (it
    told something) or action.

    `what` is a sentence for people; `details` are its facts, by names that stay.
    """

    at: datetime
    kind: str
    what: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Story:
    """An order as it is, and what happened to it, the oldest first.

    What BullMQ knows of a job goes with the job: an hour after it completed, a day after it failed.
    Failed attempts are known for FAILURE_RETENTION_S.
    """

    order_id: UUID
    status: OrderStatus
    payment_id: UUID
    payment_status: PaymentStatus
    total: Decimal
    currency: str
    user_id: str | None
    events: Sequence[StoryEvent]


async def tell_story(order_id: str, *, db: Reads, queues: JobQueues) -> Story:
    """Tell what happened to an order, by its id or its producer's. Raises OrderNotFound."""
    order = await db.fetchrow("order_in_full", row_id(order_id))
    if order is None:
        raise OrderNotFound(order_id=order_id)
    notifications, strays, later, refunds, told = await asyncio.gather(
        db.fetch("notifications_of_order", order["id"]),
        db.fetch("stray_charges_of_payment", order["payment_id"]),
        db.fetch("story_events", order["id"]),
        db.fetch("story_refunds", order["id"]),
        db.fetch("events_of_payment", order["payment_id"]),
    )
    failures, actions, jobs = await asyncio.gather(
        failures_of_order(order["id"], db=db),
        actions_on_order(order["id"], db=db),
        _jobs_of(order, queues),
    )
    events = [
        *_of_order(order),
        *_of_payment(order),
        *(event for job, state in jobs for event in _of_job(job, state)),
        *map(_of_failure, failures),
        *(event for row in notifications for event in _of_notification(row)),
        *(event for row in strays for event in _of_stray(row)),
        *map(_of_gateway, told),
        *(StoryEvent(row["at"], "order", row["kind"].replace("-", " ")) for row in later),
        *(event for row in refunds for event in _of_refund(row)),
        *map(_of_action, actions),
    ]
    return Story(
        order_id=order["id"],
        status=OrderStatus(order["status"]),
        payment_id=order["payment_id"],
        payment_status=PaymentStatus(order["payment_status"]),
        total=order["total"],
        currency=order["currency"],
        user_id=order["user_id"],
        events=sorted(events, key=lambda event: event.at),
    )


async def _jobs_of(order: Row, queues: JobQueues) -> list[tuple[StoredJob, str]]:
    """Return those of the order's jobs that Redis still has, and where each is."""
    order_key = order["external_id"] or str(order["id"])
    payment_key = order["payment_external_id"] or str(order["payment_id"])
    named = [
        (QueueName.PAYMENTS, job_id("payment", payment_key)),
        (QueueName.NOTIFICATIONS, job_id(JobName.ORDER_CONFIRMATION, order_key)),
        (QueueName.NOTIFICATIONS, job_id(JobName.PAYMENT_FAILED, order_key)),
    ]
    asked = [(shard, named_id) for q, named_id in named for shard in queues.names.shards_of(q)]
    jobs = await asyncio.gather(*(read_job(queues, *where) for where in asked))
    places = await asyncio.gather(*(place_of(queues, *where) for where in asked))
    return [(job, str(place)) for job, place in zip(jobs, places, strict=True) if job and place]


def _of_order(order: Row) -> Iterator[StoryEvent]:
    adopted = order["source"] == "external"
    yield StoryEvent(
        order["created_at"],
        "order",
        "the order of another producer was adopted" if adopted else "the order was placed",
        {"total": f"{order['total']:.2f}", "currency": order["currency"]},
    )
    if order["notified_at"] is not None:
        yield StoryEvent(order["notified_at"], "order", f"the customer knows it: {order['status']}")


def _of_payment(order: Row) -> Iterator[StoryEvent]:
    """Tell the last that is known of the payment: its row keeps no more."""
    said = {
        PaymentStatus.PROCESSING: "a charge began, and its outcome is not written yet",
        PaymentStatus.REQUIRES_ACTION: "the customer or the bank has to act at the gateway",
        PaymentStatus.COMPLETED: "the gateway took the money",
        PaymentStatus.FAILED: "the payment failed",
        PaymentStatus.REFUNDED: "the money was given back",
    }
    status = PaymentStatus(order["payment_status"])
    if status not in said:
        return
    what = said[status]
    if status is PaymentStatus.COMPLETED and order["transaction_id"] is None:
        what = "the payment needs no charge"
    reason = order["decline_reason"]
    yield StoryEvent(
        order["payment_updated_at"],
        "payment",
        f"{what}: {reason}" if reason else what,
        {
            "paymentId": str(order["payment_id"]),
            "method": order["method"],
            "status": status.value,
            "transactionId": order["transaction_id"],
            "declineReason": reason,
        },
    )


def _of_job(job: StoredJob, state: str) -> Iterator[StoryEvent]:
    facts = {"queue": job.queue, "jobId": job.job_id, "state": state, "worker": job.worker}
    told = (
        (job.added_ms, f"{job.name} was added to {job.queue}"),
        (job.processed_ms, f"attempt {max(job.attempts_started, 1)} of {job.name} began"),
        (job.finished_ms, f"{job.name} {state}"),
    )
    for unix_ms, what in told:
        at = moment(unix_ms)
        if at is not None:
            yield StoryEvent(at, "job", what, facts)


def _of_failure(failure: Failure) -> StoryEvent:
    last = ", its last one" if failure.final else ""
    return StoryEvent(
        failure.at,
        "failure",
        f"attempt {failure.attempt} of {failure.job_name} failed{last}: {failure.message}",
        {
            "queue": failure.queue,
            "jobId": failure.job_id,
            "attempt": failure.attempt,
            "final": failure.final,
            "errorType": failure.error_type,
            "fingerprint": failure.fingerprint,
            "worker": failure.worker,
        },
    )


def _of_notification(row: Row) -> Iterator[StoryEvent]:
    facts = {"kind": row["kind"], "channel": row["channel"], "reference": row["reference"]}
    if row["sent_at"] is not None:
        yield StoryEvent(
            row["sent_at"], "message", f"{row['kind']} was sent by {row['channel']}", facts
        )
    elif row["refused_reason"] is not None:
        reason = mask_text(row["refused_reason"])
        what = f"{row['kind']} by {row['channel']} was refused: {reason}"
        yield StoryEvent(row["claimed_until"], "message", what, facts)
    elif row["claimed_until"] > datetime.now(UTC):
        what = f"a worker sends {row['kind']} by {row['channel']}, until then at most"
        yield StoryEvent(row["claimed_until"], "message", what, facts)


def _of_stray(row: Row) -> Iterator[StoryEvent]:
    facts = {"transactionId": row["transaction_id"]}
    yield StoryEvent(
        row["noticed_at"], "charge", "a charge came that the order has no use for", facts
    )
    if row["refunded_at"] is not None:
        yield StoryEvent(row["refunded_at"], "charge", "that charge was given back", facts)


def _of_gateway(row: Row) -> StoryEvent:
    done = row["done"] or "not looked at yet"
    return StoryEvent(
        row["received_at"],
        "gateway",
        f"{row['gateway']} told of {row['type']}: {done}",
        {"gateway": row["gateway"], "eventId": row["event_id"], "done": row["done"]},
    )


def _of_refund(row: Row) -> Iterator[StoryEvent]:
    amount = f"{row['amount']:.2f} {row['currency']}"
    facts = {
        "refundId": str(row["id"]),
        "cause": row["cause"],
        "status": row["status"],
        "transactionId": row["transaction_id"],
        "gatewayId": row["gateway_id"],
    }
    what = f"a refund of {amount} was asked for, by {row['cause']}"
    yield StoryEvent(row["created_at"], "refund", what, facts)
    if row["updated_at"] > row["created_at"]:
        reason = f": {mask_text(row['decline_reason'])}" if row["decline_reason"] else ""
        what = f"the refund of {amount} is {row['status']}{reason}"
        yield StoryEvent(row["updated_at"], "refund", what, facts)


def _of_action(action: Action) -> StoryEvent:
    how = action.outcome.value if action.outcome else "not ended"
    because = f", because {action.reason}" if action.reason else ""
    return StoryEvent(
        action.at,
        "action",
        f"{action.user} did by hand: {action.action} {action.target}{because}: {how}",
        {"user": action.user, "via": action.via, "action": action.action, "outcome": how},
    )
