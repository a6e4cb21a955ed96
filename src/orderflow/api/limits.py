"""The limits on what clients can make the API hold: the size of a body, and requests at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.api.problems import Kind, Problem


class InFlight:
    """At most `limit` requests of one kind at once; more would only wait for each other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more while inside. Raises Problem where that would be too many."""
        if self._count >= self._limit:
            raise Problem(Kind.TOO_MANY_CHECKOUTS, "Try again; nothing was ordered.")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


class BodyLimit:
    """Refuses a body over `max_bytes`: by its Content-Length, and while its chunks are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app. Raises Problem at once, or out of the app's reading."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._max_bytes:
            raise self._too_large()
        seen = 0

        async def count() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, count, send)

    def _too_large(self) -> Problem:
        return Problem(Kind.BODY_TOO_LARGE, f"A body may have {self._max_bytes} bytes at most.")


def _announced_bytes(scope: Scope) -> int:
    """Return the Content-Length, or 0 if there is none to go by: then the chunks are counted."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            # So long a number is none to go by, and Python would refuse to read it.
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0
