"""Pages that stay up to date: the same address, asked for as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from orderflow.api.measured import STREAMED
from orderflow.api.problems import logged_problem_of
from orderflow.api.state import state_of

T = TypeVar("T")
Render = Callable[[], Awaitable[str]]

EVERY_S = 1.0
_EVENT_STREAM = "text/event-stream"
#: nginx would keep events until it has a buffer full of them.
_UNBUFFERED = {"X-Accel-Buffering": "no"}


def wants_stream(request: Request) -> bool:
    """Say whether the request is of a script that follows the page."""
    return _EVENT_STREAM in request.headers.get("accept", "")


class Streams:
    """The open streams of one process, `limit` at most: each is a look every second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0

    def answer(self, request: Request, render: Render, until: float) -> Response:
        """Answer with what `render` returns, again and again as it changes.

        The stream ends at the Unix time `until`, when the process is about to stop, or when its
        reader leaves.
        """
        if self._open >= self._limit:
            return PlainTextResponse("Too many streams are open; reload the page.", 503)
        request.scope[STREAMED] = True
        return StreamingResponse(
            self._events(request, render, until), media_type=_EVENT_STREAM, headers=_UNBUFFERED
        )

    async def _events(self, request: Request, render: Render, until: float) -> AsyncIterator[str]:
        leaving = state_of(request).leaving
        self._open += 1
        sent = None
        try:
            while not leaving.begun and time.time() < until:
                said = await _look(request, render)
                # A comment keeps proxies from taking silence for the end.
                yield said if said != sent else ":\n\n"
                sent = said
                await asyncio.sleep(EVERY_S)
        finally:
            self._open -= 1


async def _look(request: Request, render: Render) -> str:
    try:
        return _event("page", await render())
    except Exception as error:
        return _event("trouble", logged_problem_of(request, error).kind.title)


def _event(name: str, data: str) -> str:
    lines = "\n".join(f"data: {line}" for line in data.splitlines())
    return f"event: {name}\n{lines}\n\n"


class Shared(Generic[T]):
    """One look for all who ask within `for_s`: the number of readers costs the shop nothing."""

    def __init__(self, look: Callable[[], Awaitable[T]], for_s: float = EVERY_S) -> None:
        self._look = look
        self._for_s = for_s
        self._lock = asyncio.Lock()
        self._seen: tuple[float, T] | None = None

    async def get(self) -> T:
        """Return what was seen, not older than that."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] >= self._for_s:
                self._seen = time.monotonic(), await self._look()
            return self._seen[1]
