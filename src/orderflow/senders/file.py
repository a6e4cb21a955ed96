"""Messages for development: each is a line of JSON in a file."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from orderflow.errors import SenderUnavailable
from orderflow.senders import Channel, Message


class FileSender:
    """Appends the messages of a channel to a file, one JSON object a line."""

    def __init__(self, channel: Channel, path: Path) -> None:
        self.channel = channel
        self._path = path

    async def send(self, message: Message) -> str:
        """Write the message down; its reference is returned as it came."""
        filled = {name: value for name, value in asdict(message).items() if value}
        line = json.dumps({"to": filled.pop("recipient"), **filled}, ensure_ascii=False)
        try:
            await asyncio.to_thread(self._append, line + "\n")
        except OSError as error:
            raise SenderUnavailable(
                channel=self.channel.value, reason=type(error).__name__
            ) from error
        return message.reference

    def _append(self, line: str) -> None:
        # One write in append mode: lines of many workers do not mix.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
