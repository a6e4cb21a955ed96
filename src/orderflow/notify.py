"""Notifying: the customer is told how the order ended, once on each channel.

What was sent to whom is recorded. A worker claims a message before it sends it, so that two
deliveries of a job do not both send; only a death between the server's yes and the record can
make a message go out twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from orderflow.contract import JobName, row_id
from orderflow.db import Database
from orderflow.errors import (
    AddressRefused,
    NotificationBeingSent,
    OrderNotFound,
    UntrueNotification,
)
from orderflow.orders import Order, OrderStatus
from orderflow.senders import Channel, Message, Sender
from orderflow.senders.messages import Templates

log = structlog.get_logger(__name__)


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
    row = await db.fetchrow("find_order", row_id(order_id))
    if row is None:
        raise OrderNotFound(order_id=order_id)
    order = Order.from_row(row)
    if order.status not in _TRUE_OF[kind]:
        raise UntrueNotification(order_id=order_id, status=order.status.value, kind=kind.value)
    recipients = _recipients(order)
    sent: list[str] = []
    for sender in senders:
        recipient = recipients.get(sender.channel)
        if recipient is None:
            continue
        message = templates.render(kind, sender.channel, order, recipient)
        if await _send_once(kind, order, sender, message, db, claim_s):
            sent.append(sender.channel.value)
    await db.fetchrow("mark_notified", order.id)
    log.info("customer notified", order_id=order_id, kind=kind.value, sent=sent)
    return {"success": True, "sent": sent}


#: The statuses of an order of which each kind of message is true.
_TRUE_OF = {
    JobName.ORDER_CONFIRMATION: {
        OrderStatus.CONFIRMED,
        OrderStatus.SHIPPED,
        OrderStatus.DELIVERED,
    },
    JobName.PAYMENT_FAILED: {OrderStatus.CANCELLED},
}


def _recipients(order: Order) -> Mapping[Channel, str]:
    addresses = {Channel.EMAIL: order.email, Channel.SMS: order.phone}
    return {channel: address for channel, address in addresses.items() if address is not None}


async def _send_once(
    kind: JobName, order: Order, sender: Sender, message: Message, db: Database, claim_s: float
) -> bool:
    """Send a message that nobody sent yet; return whether this call sent it."""
    of_message = (order.id, kind.value, sender.channel.value)
    claimed = await db.fetchrow("claim_notification", *of_message, message.recipient, claim_s)
    if claimed is None:
        record = await db.fetchrow("find_notification", *of_message)
        if record is not None and (record["sent_at"] or record["refused_reason"]):
            return False
        raise NotificationBeingSent(
            kind=kind.value, order_id=order.id, channel=sender.channel.value
        )
    try:
        reference = await sender.send(message)
    except AddressRefused as refusal:
        log.warning(
            "address refused",
            order_id=str(order.id),
            channel=sender.channel.value,
            reason=refusal.reason,
        )
        await db.fetchrow("record_refused", *of_message, refusal.reason)
        return False
    except BaseException:
        await db.fetchrow("release_notification", *of_message)
        raise
    await db.fetchrow("record_sent", *of_message, reference)
    return True
