"""Messages for development: each is shown where the worker runs."""

from __future__ import annotations

import sys

from orderflow.senders import Channel, Message


class ConsoleSender:
    """Prints the messages of a channel, without their HTML."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def send(self, message: Message) -> str:
        """Print the message; its reference is returned as it came."""
        subject = f"Subject: {message.subject}\n" if message.subject else ""
        sys.stdout.write(
            f"\n{self.channel.value} to {message.recipient}\n{subject}\n{message.text}\n\n"
        )
        sys.stdout.flush()
        return message.reference
