"""A server that speaks Twilio's Messages API as it is documented, over a socket.

The numbers that it refuses are those of Twilio's own test credentials.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

ACCOUNT, TOKEN, SENDER = f"AC{'0' * 32}", "a-token-of-twilio", "+15005550006"

REFUSED = {
    "+15005550001": (400, 21211, "The 'To' number {to} is not a valid phone number."),
    "+15005550002": (400, 21612, "The number {to} is not currently reachable."),
    "+15005550003": (400, 21408, "Permission to send an SMS has not been enabled for {to}."),
    "+15005550004": (400, 21610, "Attempt to send to unsubscribed recipient {to}."),
    "+15005550009": (400, 21614, "{to} is not a valid mobile number."),
    "+15005550429": (429, 20429, "Too many requests"),
    "+15005550500": (500, 20500, "Internal server error, {to}"),
}


@dataclass
class Twilio:
    """Where it listens, and the messages that it took."""

    url: str = ""
    taken: list[dict[str, str]] = field(default_factory=list)

    def answer(self, head: str, body: str) -> tuple[int, Any]:
        """Return the status and the JSON of one request."""
        start, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        login = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        if headers.get("authorization") != f"Basic {login}":
            return _refusal(401, 20003, "Authenticate")
        if start != f"POST /2010-04-01/Accounts/{ACCOUNT}/Messages.json HTTP/1.1":
            return _refusal(404, 20404, "The requested resource was not found")
        form = {name: values[0] for name, values in parse_qs(body).items()}
        to = form.get("To", "")
        if to in REFUSED:
            status, code, message = REFUSED[to]
            return _refusal(status, code, message.format(to=to))
        if form.get("From") != SENDER and "MessagingServiceSid" not in form:
            return _refusal(400, 21606, "The 'From' phone number is not a valid sender")
        self.taken.append(form)
        return 201, {"sid": f"SM{len(self.taken):032x}", "status": "queued", "to": to}


def _refusal(status: int, code: int, message: str) -> tuple[int, Any]:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return status, {"code": code, "message": message, "more_info": more, "status": status}


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[str]:
    """Give the URL of a server on a loopback port, of which no connection is left in the end."""
    served: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        await answer(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*filter(None, served))


@asynccontextmanager
async def open_twilio_server() -> AsyncIterator[Twilio]:
    """Give the server on a loopback port."""
    twilio = Twilio()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
        length = next(x for x in head.split("\r\n") if x.lower().startswith("content-length:"))
        body = (await reader.readexactly(int(length.partition(":")[2]))).decode()
        status, said = twilio.answer(head, body)
        content = json.dumps(said).encode()
        writer.write(
            b"HTTP/1.1 %d .\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (status, len(content), content)
        )
        await writer.drain()

    async with listening(answer) as url:
        twilio.url = url
        yield twilio
