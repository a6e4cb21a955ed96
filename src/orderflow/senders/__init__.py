"""Senders: how a message reaches a customer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from orderflow.contract import Channel as Channel


@dataclass(frozen=True, slots=True)
class Message:
    """What to say, to whom, and in which language.

    `html` and `subject` are for channels that have them.
    """

    recipient: str
    subject: str
    text: str
    html: str | None = None
    #: The same for every attempt, so that a receiver can tell a repeated message.
    reference: str = field(default="")
    language: str = "en"


class Sender(Protocol):
    """Hands messages over on one channel.

    Raises SenderUnavailable when it may work later, SenderBusy when its turn is later, and
    AddressRefused when it never will.
    """

    channel: Channel

    async def send(self, message: Message) -> str:
        """Hand the message over; return the sender's reference for it."""
