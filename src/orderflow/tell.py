"""Telling: a customer gets a message once on each channel.

What was sent to whom is recorded. A worker claims a message before it sends it, so that two
deliveries of a job do not both send. The record is tried again while PostgreSQL is away, so that
only a death between the server's yes and the record, or an outage that outlasts the job, can make
a message go out twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, repeat
from typing import Protocol

import structlog

from orderflow.errors import AddressRefused, DatabaseUnavailable, SenderBusy, SenderUnavailable
from orderflow.metrics import SENDER_SECONDS
from orderflow.orders import Order
from orderflow.senders import Channel, Message, Sender

log = structlog.get_logger(__name__)

#: Between two tries to record what was sent; the last of them again and again.
_PAUSES_S = (0.1, 0.2, 0.5, 1.0)


class Record(Protocol):
    """What is written down about the messages of one matter."""

    async def check_ended(self, channel: Channel) -> None:
        """Return if the message was sent or refused before. Raises NotificationBeingSent."""

    async def sent(self, channel: Channel, reference: str, *, last: bool) -> None:
        """Write down that a message is out; with the `last` one the customer knows it all."""

    async def refused(self, channel: Channel, reason: str) -> None:
        """Write down that a message will never go out."""

    async def release(self, channels: Collection[Channel]) -> None:
        """Give back the claims of these: the next attempt need not wait for their end."""

    async def told(self) -> None:
        """Write down that the customer knows it all, or that nobody is there to know."""


async def tell(
    order: Order,
    record: Record,
    render: Callable[[Channel, str], Message],
    senders: Sequence[Sender],
    claimed: Collection[str],
) -> list[str] | None:
    """Send what `render` makes on each channel that the customer has and that was `claimed`.

    Returns the channels that were used now, or None where the customer has none. Raises
    SenderUnavailable (later, again) or NotificationBeingSent.
    """
    recipients = _recipients(order)
    used = [sender for sender in senders if sender.channel in recipients]
    left = set(map(Channel, claimed))
    sent: list[str] = []
    try:
        for sender in used:
            channel = sender.channel
            if channel not in left:
                await record.check_ended(channel)
                continue
            message = render(channel, recipients[channel])
            if await _send(order, sender, message, record, last=sender is used[-1]):
                sent.append(channel.value)
            left.discard(channel)
    except BaseException:
        await record.release(left)
        raise
    if not sent or sent[-1] != used[-1].channel:
        await record.told()
    return sent if used else None


def _recipients(order: Order) -> Mapping[Channel, str]:
    addresses = {Channel.EMAIL: order.email, Channel.SMS: order.phone}
    return {channel: address for channel, address in addresses.items() if address is not None}


async def _send(
    order: Order, sender: Sender, message: Message, record: Record, *, last: bool
) -> bool:
    """Send a message and record it; return whether it was taken. The `last` one is the end."""
    channel = sender.channel
    try:
        reference = await _timed_send(sender, message)
    except AddressRefused as refusal:
        log.warning(
            "address refused",
            order_id=str(order.id),
            channel=channel.value,
            reason=refusal.reason,
        )
        await record.refused(channel, refusal.reason)
        return False
    await _record_sent(order, channel, reference, record, last=last)
    return True


async def _record_sent(
    order: Order, channel: Channel, reference: str, record: Record, *, last: bool
) -> None:
    """Write down what is out already, which an attempt that fails here would send again."""
    for pause_s in chain(_PAUSES_S, repeat(_PAUSES_S[-1])):
        try:
            await record.sent(channel, reference, last=last)
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
    except SenderBusy:
        outcome = "postponed"
        raise
    finally:
        taken_s = time.perf_counter() - started
        SENDER_SECONDS.observe(taken_s, (sender.channel.value, outcome))
    return reference
