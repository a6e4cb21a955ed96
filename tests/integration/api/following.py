"""The app on a real server in the test's own loop, and one who follows an order there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from orderflow.api.app import create_app
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

PATIENCE_S = 20


@dataclass
class Event:
    name: str
    id: str
    data: dict[str, Any]


@dataclass
class Stream:
    """An open stream, read piece by piece."""

    answer: httpx.Response
    comments: int = 0
    retry_ms: int | None = None
    _pieces: AsyncIterator[str] | None = None
    _rest: str = ""
    _events: list[Event] = field(default_factory=list)

    async def next(self) -> Event | None:
        """Return the next event, or None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._events and await self._more():
                pass
        return self._events.pop(0) if self._events else None

    async def until(self, name: str, status: str) -> list[Event]:
        """Return the events up to the first that tells of this status."""
        events: list[Event] = []
        while not events or (events[-1].name, events[-1].data.get("status")) != (name, status):
            event = await self.next()
            assert event is not None, [(event.name, event.data) for event in events]
            events.append(event)
        return events

    async def rest(self) -> list[Event]:
        """Return what comes until the end."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def heartbeats(self, count: int) -> None:
        """Return when so many more comments have come."""
        goal = self.comments + count
        async with asyncio.timeout(PATIENCE_S):
            while self.comments < goal:
                assert await self._more()

    async def _more(self) -> bool:
        """Read on; False at the end."""
        if self._pieces is None:
            self._pieces = self.answer.aiter_text()
        piece = await anext(self._pieces, None)
        if piece is None:
            return False
        *blocks, self._rest = (self._rest + piece).split("\n\n")
        for block in blocks:
            self._take(dict(line.split(": ", 1) for line in block.split("\n") if line != ":"))
        return True

    def _take(self, fields: dict[str, str]) -> None:
        if not fields:
            self.comments += 1
        elif "retry" in fields:
            self.retry_ms = int(fields["retry"])
        else:
            self._events.append(Event(fields["event"], fields["id"], json.loads(fields["data"])))


@dataclass(frozen=True)
class Server:
    """The app, and who may ask it."""

    url: str
    secret: str
    server: uvicorn.Server

    def headers(
        self, user: str = "user-1", *, admin: bool = False, ttl_s: int = 3_600
    ) -> dict[str, str]:
        token = make_token(self.secret, user, admin=admin, ttl_s=ttl_s)
        return {"Authorization": f"Bearer {token}"}

    @asynccontextmanager
    async def follow(
        self, order_id: object, seen: str | None = None, method: str = "GET", **who: Any
    ) -> AsyncIterator[Stream]:
        """Open a stream, whatever it is answered."""
        headers = self.headers(**who) | ({"Last-Event-ID": seen} if seen is not None else {})
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client,
            client.stream(
                method, f"{self.url}/orders/{order_id}/events", headers=headers
            ) as answer,
        ):
            yield Stream(answer)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Serve the app as `python -m orderflow.api` does, but in this loop."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            port=port,
            http="orderflow.api.protocol:Protocol",
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=PATIENCE_S,
        )
    )
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_S):
        while not port_is_taken(port):
            await asyncio.sleep(0.01)
    assert settings.jwt_secret is not None
    yield Server(f"http://127.0.0.1:{port}", settings.jwt_secret.get_secret_value(), server)
    server.should_exit = True
    await serving
