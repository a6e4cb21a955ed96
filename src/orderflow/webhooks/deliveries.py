"""Deliveries: what an endpoint is told of, what came of each attempt, and what is sent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from orderflow.db import Database
from orderflow.errors import WebhookDeliveryNotFound
from orderflow.operations.audit import Actor, audited
from orderflow.orders import Row
from orderflow.webhooks.endpoints import get_endpoint
from orderflow.webhooks.messages import EventType, message_id

#: They are kept for so long after their end, and so many are forgotten at once.
_KEPT_DAYS, _PURGED_AT_ONCE = 30, 10_000
#: So long a number is one of PostgreSQL's.
_DIGITS = 18
#: So many go out again by one request.
MOST_RESENT = 10_000


class DeliveryStatus(StrEnum):
    """How far a delivery is."""

    WAITING = "waiting"  # to be sent, or to be tried again
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """What came of one attempt, and the beginning of the answer. Text is masked as it is written.

    No `status_code`: no answer came, and `error` says why.
    """

    attempt: int
    at: datetime
    took_ms: int
    status_code: int | None
    error: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One message to one endpoint. `message_id` is the `webhook-id` that the endpoint gets.

    While an attempt is under way `due_at` is when it counts as lost. `attempts` counts those that
    began; one whose process died is not among the `last_attempts`, the newest of which is first.
    """

    id: int
    message_id: str
    type: EventType
    order_id: UUID
    happened_at: datetime
    status: DeliveryStatus
    due_at: datetime | None
    ended_at: datetime | None
    attempts: int
    last_attempts: Sequence[WebhookAttempt]


def read_delivery_id(given: str) -> int:
    """Return the number that a text is. Raises WebhookDeliveryNotFound."""
    if not (given.isascii() and given.isdecimal()) or len(given) > _DIGITS:
        raise WebhookDeliveryNotFound(delivery_id=given)
    return int(given)


async def list_deliveries(
    endpoint_id: UUID,
    *,
    db: Database,
    status: DeliveryStatus | None = None,
    before: int | None = None,
    limit: int = 20,
) -> list[WebhookDelivery]:
    """Return deliveries to an endpoint, the newest first; `before` is the id a page goes on at.

    Raises WebhookEndpointNotFound.
    """
    await get_endpoint(endpoint_id, db=db)
    statuses = [status] if status is not None else list(DeliveryStatus)
    return await _with_attempts(
        await db.fetch("webhook_deliveries", endpoint_id, statuses, before, limit), db
    )


async def get_delivery(endpoint_id: UUID, delivery_id: int, *, db: Database) -> WebhookDelivery:
    """Return one delivery to an endpoint.

    Raises WebhookEndpointNotFound or WebhookDeliveryNotFound.
    """
    await get_endpoint(endpoint_id, db=db)
    found = await _with_attempts(await db.fetch("webhook_delivery", endpoint_id, delivery_id), db)
    if not found:
        raise WebhookDeliveryNotFound(delivery_id=delivery_id)
    return found[0]


async def resend(
    endpoint_id: UUID, delivery_id: int, actor: Actor, *, db: Database
) -> WebhookDelivery:
    """Have a delivery sent anew, whatever came of it, under the same `webhook-id`.

    Raises WebhookEndpointNotFound or WebhookDeliveryNotFound, also where its order is gone.
    """
    details = {"delivery": delivery_id}
    async with audited(actor, "resend webhook", str(endpoint_id), db=db, details=details):
        await get_endpoint(endpoint_id, db=db)
        if await db.fetchrow("resend_webhook", endpoint_id, delivery_id) is None:
            raise WebhookDeliveryNotFound(delivery_id=delivery_id)
    return await get_delivery(endpoint_id, delivery_id, db=db)


async def resend_given_up(endpoint_id: UUID, actor: Actor, *, db: Database) -> int:
    """Have all that was given up tried anew, the oldest 10,000; return how many.

    Raises WebhookEndpointNotFound.
    """
    async with audited(actor, "resend webhooks", str(endpoint_id), db=db) as note:
        await get_endpoint(endpoint_id, db=db)
        resent = len(await db.fetch("resend_webhooks", endpoint_id, MOST_RESENT))
        note.details["resent"] = resent
    return resent


async def purge_deliveries(*, db: Database) -> int:
    """Forget what ended 30 days ago; return how many. A call forgets 10,000 at most."""
    return len(await db.fetch("purge_webhooks", _KEPT_DAYS, _PURGED_AT_ONCE))


async def _with_attempts(rows: Sequence[Row], db: Database) -> list[WebhookDelivery]:
    attempts: dict[int, list[WebhookAttempt]] = {row["id"]: [] for row in rows}
    if rows:
        for row in await db.fetch("webhook_attempts", list(attempts)):
            attempts[row["delivery_id"]].append(_attempt(row))
    return [_delivery(row, attempts) for row in rows]


def _attempt(row: Row) -> WebhookAttempt:
    return WebhookAttempt(**{name: row[name] for name in WebhookAttempt.__slots__})


def _delivery(row: Row, attempts: Mapping[int, Sequence[WebhookAttempt]]) -> WebhookDelivery:
    kind = EventType(row["type"])
    return WebhookDelivery(
        id=row["id"],
        message_id=message_id(kind, row["order_id"], row["refund_id"]),
        type=kind,
        order_id=row["order_id"],
        happened_at=row["happened_at"],
        status=DeliveryStatus(row["status"]),
        due_at=row["due_at"],
        ended_at=row["ended_at"],
        attempts=row["attempts"],
        last_attempts=attempts[row["id"]],
    )
