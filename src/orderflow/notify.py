"""Notifying: the customer is told how the payment of the order ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from orderflow.contract import JobName, row_id
from orderflow.db import Database
from orderflow.errors import NotificationBeingSent, OrderNotFound, UntrueNotification
from orderflow.logs import current_trace_id
from orderflow.metrics import ORDER_SECONDS
from orderflow.orders import CANCELLED, Order, OrderStatus
from orderflow.senders import Channel, Message, Sender
from orderflow.senders.messages import Templates
from orderflow.tell import tell

log = structlog.get_logger(__name__)


async def notify_customer(
    order_id: str,
    *,
    kind: JobName,
    db: Database,
    senders: Sequence[Sender],
    templates: Templates,
    claim_s: float,
) -> dict[str, Any]:
    """Tell the customer of `order_id`; return `{success, sent}` with the channels used now.

    `kind` says what is told, and its templates what the message looks like. A claim lasts
    `claim_s`: longer than a sender takes to send or give up. An order without an address counts
    as told, since there is nobody to tell. What a cancel has overtaken is told no more.

    Raises OrderNotFound, UntrueNotification (it may become true), SenderUnavailable (later, again)
    or NotificationBeingSent.
    """
    channels = tuple(sender.channel.value for sender in senders)
    true_of = tuple(sorted(_TRUE_OF[kind]))
    # All channels are claimed at once, and one is used after the other.
    row = await db.batch(
        "claim_messages",
        row_id(order_id),
        same=(kind.value, true_of, channels, claim_s * len(senders)),
    )
    if row is None:
        raise OrderNotFound(order_id=order_id)
    order = Order.from_row(row)
    record = _OfPayment(kind, order, db)
    if order.status is OrderStatus.CANCELLED and await _is_overtaken(kind, order, db):
        await record.release(list(map(Channel, row["claimed"])))
        return {"success": True, "sent": []}
    if order.status not in _TRUE_OF[kind]:
        raise UntrueNotification(order_id=order_id, status=order.status.value, kind=kind.value)

    def render(channel: Channel, recipient: str) -> Message:
        return templates.render(kind, channel, order, recipient)

    sent = await tell(order, record, render, senders, row["claimed"])
    if sent or sent is None:
        _observe_age(kind, order)
    log.info("customer notified", order_id=order_id, kind=kind.value, sent=sent or [])
    return {"success": True, "sent": sent or []}


#: How an order ended whose customer is told so.
_OUTCOMES = {JobName.ORDER_CONFIRMATION: "confirmed", JobName.PAYMENT_FAILED: "cancelled"}

#: The statuses of an order of which each kind of message is true.
_TRUE_OF = {
    JobName.ORDER_CONFIRMATION: {
        OrderStatus.CONFIRMED,
        OrderStatus.SHIPPED,
        OrderStatus.DELIVERED,
    },
    JobName.PAYMENT_FAILED: {OrderStatus.CANCELLED},
}


async def _is_overtaken(kind: JobName, order: Order, db: Database) -> bool:
    """Say whether the order was cancelled by a person, of which its customer is told by itself."""
    if kind is JobName.PAYMENT_FAILED:
        return order.decline_reason == CANCELLED
    event = await db.fetchrow("order_and_event", order.id, JobName.ORDER_CANCELLED.value)
    return event is not None and event["details"] is not None


def _observe_age(kind: JobName, order: Order) -> None:
    age_s = (datetime.now(UTC) - order.created_at).total_seconds()
    ORDER_SECONDS.observe(max(0.0, age_s), (_OUTCOMES[kind],), current_trace_id())


class _OfPayment:
    """What is written down about the message of how a payment ended."""

    def __init__(self, kind: JobName, order: Order, db: Database) -> None:
        self._kind = kind.value
        self._order = order
        self._db = db

    async def check_ended(self, channel: Channel) -> None:
        """Return if the message was sent or refused before. Raises NotificationBeingSent."""
        record = await self._db.fetchrow(
            "find_notification", self._order.id, self._kind, channel.value
        )
        if record is None or not (record["sent_at"] or record["refused_reason"]):
            raise NotificationBeingSent(
                kind=self._kind, order_id=self._order.id, channel=channel.value
            )

    async def sent(self, channel: Channel, reference: str, *, last: bool) -> None:
        """Write down that a message is out; with the `last` one the customer knows it all."""
        same = (self._kind, channel.value)
        await self._db.batch("record_sent", self._order.id, reference, last, same=same)

    async def refused(self, channel: Channel, reason: str) -> None:
        """Write down that a message will never go out."""
        args = (self._order.id, self._kind, channel.value, reason)
        await self._db.fetchrow("record_refused", *args)

    async def release(self, channels: Collection[Channel]) -> None:
        """Give back the claims of these."""
        names = sorted(channel.value for channel in channels)
        await self._db.fetchrow("release_notifications", self._order.id, self._kind, names)

    async def told(self) -> None:
        """Write down that the customer knows it all, or that nobody is there to know."""
        await self._db.fetchrow("mark_notified", self._order.id)
