"""A gateway that approves every charge and takes its time: `python -m bench.slow_gateway PORT MS`.

It takes half of that time to half as much again, as one outside does: answers that came all at once
would be a load of their own. It costs little beside what is measured, for thousands of charges at
once, and counts how often it was asked for each key: `GET /charges` tells how many keys there were,
and how many calls.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any, cast

import httptools
import uvloop


class _Connection(asyncio.Protocol):
    """One client's connection: it asks for one thing at a time."""

    def __init__(self, calls: Counter[str], chance: random.Random, wait_s: float) -> None:
        self._calls = calls
        self._chance = chance
        self._wait_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = self._key = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"idempotency-key":
            self._key = value.decode()

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"POST":
            self._calls[self._key] += 1
            wait_s = self._wait_s * self._chance.uniform(0.5, 1.5)
            self._loop.call_later(wait_s, self._answer, "201 Created", _outcome(self._key))
            return
        key = self._path.removeprefix("/charges").strip("/")
        if not key:
            counts = {"keys": len(self._calls), "calls": self._calls.total()}
            self._answer("200 OK", counts)
        elif key in self._calls:
            self._answer("200 OK", _outcome(key))
        else:
            self._answer("404 Not Found", {"error": {"message": "no charge has this key"}})

    def _answer(self, status: str, body: dict[str, Any]) -> None:
        text = json.dumps(body)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())


def _outcome(key: str) -> dict[str, Any]:
    return {"id": f"ch_{key}", "status": "succeeded"}


async def _serve(port: int, wait_s: float) -> None:
    calls: Counter[str] = Counter()
    chance = random.Random(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(calls, chance, wait_s), "127.0.0.1", port, backlog=4_096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]) / 1000))
