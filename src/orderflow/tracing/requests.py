"""The span of a request, as ASGI middleware."""

from __future__ import annotations

from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.logs import log_context
from orderflow.tracing.spans import W3C, mark_failed, span, trace_id_of

#: What looks at the process and not at an order: a trace of each would be all that one sees.
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
#: Any other word could be the client's own, and a name of each would be many.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class TracedRequests:
    """Makes a span of each request, in the trace that its `traceparent` names or in a new one.

    All log lines of the request have its `trace_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app inside of the span."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        verb = method if method in _METHODS else "HTTP"
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with (
            span(
                verb,
                SpanKind.SERVER,
                {"http.request.method": method if method in _METHODS else "_OTHER"},
                parent=W3C.extract(headers),
            ) as made,
            log_context({"trace_id": trace_id_of(made)}),
        ):

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    made.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        mark_failed(made, str(status))
                await send(message)

            try:
                await self._app(scope, receive, note)
            finally:
                # The router leaves it there: the path itself would be a name for every order.
                route = scope.get("route")
                if route is not None:
                    made.update_name(f"{verb} {route.path}")
                    made.set_attribute("http.route", route.path)
