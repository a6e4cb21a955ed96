"""SMS for development: each message is a line of JSON in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from orderflow.errors import SenderUnavailable
from orderflow.senders import Channel, Message


class SmsFileSender:
    """Appends messages to SMS_FILE, one JSON object a line."""

    channel = Channel.SMS

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, message: Message) -> str:
        """Write the message down; its reference is returned as it came."""
        line = json.dumps(
            {"to": message.recipient, "text": message.text, "reference": message.reference}
        )
        try:
            await asyncio.to_thread(self._append, line + "\n")
        except OSError as error:
            raise SenderUnavailable(channel="SMS", reason=type(error).__name__) from error
        return message.reference

    def _append(self, line: str) -> None:
        # One write in append mode: lines of many workers do not mix.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
