"""A server before the API that fails as it is told to: what a bad network and bad proxies do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Seen:
    """A request, as it came."""

    method: str
    path: str
    headers: httpx.Headers
    body: bytes


Send = Callable[[bytes], Awaitable[None]]
#: What becomes of a request. On return the connection is cut, unless a whole answer was sent.
Trouble = Callable[["TroubledShop", Seen, Send], Awaitable[bool]]


@dataclass
class TroubledShop:
    """Does to each request what is next in `plan`, and passes on those that come after."""

    api: httpx.AsyncClient
    plan: deque[Trouble] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def pass_on(self, request: Seen) -> httpx.Response:
        kept = {
            name: value
            for name, value in request.headers.items()
            if name not in {"host", "connection", "content-length", "accept-encoding"}
        }
        return await self.api.request(
            request.method, request.path, headers=kept, content=request.body
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while True:
                request = await _read(reader)
                self.seen.append(request)
                trouble = self.plan.popleft() if self.plan else answer_as_the_api
                if not await trouble(self, request, send):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client has left.
            return
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines])
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Seen(method, path, headers, body)


async def answer_as_the_api(shop: TroubledShop, request: Seen, send: Send) -> bool:
    answer = await shop.pass_on(request)
    await send(_whole(answer.status_code, answer.headers, answer.content))
    return True


async def cut_before(_shop: TroubledShop, _request: Seen, _send: Send) -> bool:
    """The request was read, and got no further."""
    return False


async def lose_answer(shop: TroubledShop, request: Seen, _send: Send) -> bool:
    """It was done, and nobody heard."""
    (await shop.pass_on(request)).raise_for_status()
    return False


async def cut_within(shop: TroubledShop, request: Seen, send: Send) -> bool:
    """It was done, and the answer ends within its body."""
    answer = await shop.pass_on(request)
    await send(_whole(answer.status_code, answer.headers, answer.content)[:-5])
    return False


async def never_answer(shop: TroubledShop, request: Seen, _send: Send) -> bool:
    """It was done, and the answer does not come: until the client gives up."""
    await shop.pass_on(request)
    await asyncio.Event().wait()
    return False


def answer_with(status: int, body: bytes = b"", **headers: str) -> Trouble:
    """A proxy answers, and the API hears nothing."""

    async def answer(_shop: TroubledShop, _request: Seen, send: Send) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await send(_whole(status, httpx.Headers(named), body))
        return True

    return answer


def stream(*parts: str) -> Trouble:
    """A stream of events that is cut after these parts."""

    async def answer(_shop: TroubledShop, _request: Seen, send: Send) -> bool:
        await send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        await send(b"Transfer-Encoding: chunked\r\n\r\n")
        for part in parts:
            data = part.encode()
            await send(b"%x\r\n%b\r\n" % (len(data), data))
        return False

    return answer


def _whole(status: int, headers: httpx.Headers, body: bytes) -> bytes:
    kept = {
        name: value for name, value in headers.items() if name not in {"content-length", "date"}
    }
    kept["content-length"] = str(len(body))
    lines = [f"HTTP/1.1 {status} {httpx.codes.get_reason_phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in kept.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def run_troubled_shop(api: httpx.AsyncClient) -> AsyncIterator[TroubledShop]:
    shop = TroubledShop(api)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(shop.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    shop.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield shop
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
