"""Notifying: the customer is told how the order ended, once on each channel.

What was sent to whom is recorded. A worker claims a message before it sends it, so that two
deliveries of a job do not both send. The record is tried again while PostgreSQL is away, so that
only a death between the server's yes and the record, or an outage that outlasts the job, can make
a message go out twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

import structlog

from orderflow.contract import JobName, row_id
from orderflow.db import Database
from orderflow.errors import (
    AddressRefused,
    DatabaseUnavailable,
    NotificationBeingSent,
    OrderNotFound,
    SenderUnavailable,
    UntrueNotification,
)
from orderflow.logs import current_trace_id
from orderflow.metrics import ORDER_SECONDS, SENDER_SECONDS
from orderflow.orders import Order, OrderStatus
from orderflow.senders import Channel, Message, Sender
from orderflow.senders.messages import Templates

log = structlog.get_logger(__name__)

#: Between two tries to record what was sent; the last of them again and again.
_PAUSES_S = (0.1, 0.2, 0.5, 1.0)


async def notify_customer(
    kind: JobName,
    order_id: str,
    *,
    db: Database,
    senders: Sequence[Sender],
    templates: Templates,
    claim_s: float,
) -> dict[str, Any]:
    """Tell the customer of `order_id`; return `{success, sent}` with the channels used now.

    `kind` says what is told, and its templates what the message looks like. A claim lasts
    `claim_s`: longer than a sender takes to send or give up. An order without an address counts
    as told, since there is nobody to tell.

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
    if order.status not in _TRUE_OF[kind]:
        raise UntrueNotification(order_id=order_id, status=order.status.value, kind=kind.value)
    recipients = _recipients(order)
    used = [sender for sender in senders if sender.channel in recipients]
    claimed = set(row["claimed"])
    sent: list[str] = []
    try:
        for sender in used:
            channel = sender.channel
            if channel not in claimed:
                await _check_ended(kind, order, channel, db)
                continue
            message = templates.render(kind, channel, order, recipients[channel])
            if await _send(kind, order, sender, message, db, last=sender is used[-1]):
                sent.append(channel.value)
            claimed.discard(channel)
    except BaseException:
        # The next attempt need not wait for the claims to end.
        await db.fetchrow("release_notifications", order.id, kind.value, sorted(claimed))
        raise
    if not sent or sent[-1] != used[-1].channel:
        await db.fetchrow("mark_notified", order.id)
    if sent or not used:
        _observe_age(kind, order)
    log.info("customer notified", order_id=order_id, kind=kind.value, sent=sent)
    return {"success": True, "sent": sent}


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


def _observe_age(kind: JobName, order: Order) -> None:
    age_s = (datetime.now(UTC) - order.created_at).total_seconds()
    ORDER_SECONDS.observe(max(0.0, age_s), (_OUTCOMES[kind],), current_trace_id())


def _recipients(order: Order) -> Mapping[Channel, str]:
    addresses = {Channel.EMAIL: order.email, Channel.SMS: order.phone}
    return {channel: address for channel, address in addresses.items() if address is not None}


async def _check_ended(kind: JobName, order: Order, channel: Channel, db: Database) -> None:
    """Return if the message was sent or refused before. Raises NotificationBeingSent."""
    record = await db.fetchrow("find_notification", order.id, kind.value, channel.value)
    if record is None or not (record["sent_at"] or record["refused_reason"]):
        raise NotificationBeingSent(kind=kind.value, order_id=order.id, channel=channel.value)


async def _send(
    kind: JobName, order: Order, sender: Sender, message: Message, db: Database, *, last: bool
) -> bool:
    """Send a message and record it; return whether it was taken. The `last` one is the end."""
    channel = sender.channel.value
    try:
        reference = await _timed_send(sender, message)
    except AddressRefused as refusal:
        log.warning(
            "address refused", order_id=str(order.id), channel=channel, reason=refusal.reason
        )
        await db.fetchrow("record_refused", order.id, kind.value, channel, refusal.reason)
        return False
    await _record_sent(kind, order, channel, reference, db, last=last)
    return True


async def _record_sent(
    kind: JobName, order: Order, channel: str, reference: str, db: Database, *, last: bool
) -> None:
    """Write down what is out already, which an attempt that fails here would send again."""
    for pause_s in chain(_PAUSES_S, repeat(_PAUSES_S[-1])):
        try:
            await db.batch("record_sent", order.id, reference, last, same=(kind.value, channel))
        except DatabaseUnavailable as outage:
            log.debug("not recorded yet", order_id=str(order.id), reason=str(outage))
            await asyncio.sleep(pause_s)
        else:
            return


async def _timed_send(sender: Sender, message: Message) -> str:
    started = time.perf_counter()
    outcome = "interrupted"
    try:
        reference = await sender.send(message)
        outcome = "sent"
    except AddressRefused:
        outcome = "refused"
        raise
    except SenderUnavailable:
        outcome = "unavailable"
        raise
    finally:
        taken_s = time.perf_counter() - started
        SENDER_SECONDS.observe(taken_s, (sender.channel.value, outcome))
    return reference
