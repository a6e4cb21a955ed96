"""Events: the customer is told what became of the order after its payment, or instead of it.

An event is written with what it tells of, in one transaction, and is the intent to tell of it: the
reconciler looks at each that nobody was told of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import structlog

from orderflow.contract import JobName, row_id
from orderflow.db import Database
from orderflow.errors import NotificationBeingSent, OrderNotFound, UntrueNotification
from orderflow.orders import Event, Order
from orderflow.senders import Channel, Message, Sender
from orderflow.senders.messages import Templates
from orderflow.tell import tell

log = structlog.get_logger(__name__)


async def tell_event(
    order_id: str,
    refund_id: UUID | None = None,
    *,
    kind: JobName,
    db: Database,
    senders: Sequence[Sender],
    templates: Templates,
    claim_s: float,
) -> dict[str, Any]:
    """Tell the customer of an event; return `{success, sent}` with the channels used now.

    Each refund is an event of its own. What is said of claims and addresses of
    `notify.notify_customer` holds here, too.

    Raises OrderNotFound, UntrueNotification where there is no such event, SenderUnavailable or
    NotificationBeingSent.
    """
    channels = [sender.channel.value for sender in senders]
    args = (row_id(order_id), kind.value, refund_id, channels, claim_s * len(senders))
    row = await db.fetchrow("claim_event", *args)
    if row is None:
        raise await _no_event(kind, order_id, db)
    order, event = Order.from_row(row), Event.from_row(row)

    def render(channel: Channel, recipient: str) -> Message:
        return templates.render(kind, channel, order, recipient, event)

    record = _OfEvent(kind, order, event, db)
    sent = await tell(order, record, render, senders, row["claimed"])
    log.info("customer notified", order_id=order_id, kind=kind.value, sent=sent or [])
    return {"success": True, "sent": sent or []}


async def _no_event(kind: JobName, order_id: str, db: Database) -> Exception:
    order = await db.fetchrow("order_and_event", row_id(order_id), kind.value)
    if order is None:
        return OrderNotFound(order_id=order_id)
    return UntrueNotification(order_id=order_id, status=order["status"], kind=kind.value)


class _OfEvent:
    """What is written down about the messages of an event."""

    def __init__(self, kind: JobName, order: Order, event: Event, db: Database) -> None:
        self._kind = kind.value
        self._order = order
        self._event = event
        self._db = db

    async def check_ended(self, channel: Channel) -> None:
        """Return if the message was sent or refused before. Raises NotificationBeingSent."""
        record = await self._db.fetchrow("find_event_message", self._event.id, channel.value)
        if record is None or not (record["sent_at"] or record["refused_reason"]):
            raise NotificationBeingSent(
                kind=self._kind, order_id=self._order.id, channel=channel.value
            )

    async def sent(self, channel: Channel, reference: str, *, last: bool) -> None:
        """Write down that a message is out; with the `last` one the customer knows it all."""
        args = (self._event.id, channel.value, reference, last)
        await self._db.fetchrow("record_event_sent", *args)

    async def refused(self, channel: Channel, reason: str) -> None:
        """Write down that a message will never go out."""
        args = (self._event.id, channel.value, reason)
        await self._db.fetchrow("record_event_refused", *args)

    async def release(self, channels: Collection[Channel]) -> None:
        """Give back the claims of these."""
        names = sorted(channel.value for channel in channels)
        await self._db.fetchrow("release_event_messages", self._event.id, names)

    async def told(self) -> None:
        """Write down that the customer knows it all, or that nobody is there to know."""
        await self._db.fetchrow("mark_event_told", self._event.id)
