"""The limit on request bodies, as ASGI middleware: nobody makes the API hold more than this."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.api.problems import Kind, Problem


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
    try:
        return int(Headers(scope=scope).get("content-length", "0"))
    except ValueError:
        return 0
