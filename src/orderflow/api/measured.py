"""Counts requests by their route, method and status, and how long they took."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.logs import current_trace_id
from orderflow.metrics import HTTP_REQUEST

#: Any other word is the client's own, and each would be a series.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: What nginx logs for a client that went away before its answer.
_NO_ANSWER = "499"
#: Where a request notes that its answer goes on for as long as somebody reads it.
STREAMED = "orderflow.streamed"


class MeasuredRequests:
    """Observes each request until its answer is sent. A stream's length would say nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _NO_ANSWER

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            if STREAMED not in scope:
                _observe(scope, status, time.perf_counter() - started)


def _observe(scope: Scope, status: str, seconds: float) -> None:
    # The router leaves it there: the path itself would be a series for every order.
    route = scope.get("route")
    labels = (
        "other" if route is None else route.path,
        scope["method"] if scope["method"] in _METHODS else "other",
        status,
    )
    HTTP_REQUEST.observe(seconds, labels, current_trace_id())
