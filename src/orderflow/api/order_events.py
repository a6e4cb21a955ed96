"""GET /orders/{id}/events: how an order goes, as it happens, as Server-Sent Events."""

from __future__ import annotations

import json
import random
import time

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orderflow.api.answers import as_json
from orderflow.api.auth import Session, bearer_token
from orderflow.api.faults import Fault
from orderflow.api.measured import STREAMED
from orderflow.api.problems import Kind, Problem
from orderflow.api.state import State, state_of
from orderflow.api.streams import Follower
from orderflow.contract import row_id
from orderflow.errors import OrderNotFound
from orderflow.live_status import Position, Progress

#: So often something is sent, so that no proxy takes silence for the end.
HEARTBEAT_S = 15.0
#: When a client is to come again whose stream was cut: not all of them at once.
_RETRY_MS = (1_000, 5_000)

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would keep events until it has a buffer full of them.
    (b"x-accel-buffering", b"no"),
    # A process that is about to stop ends its streams: the next one is to go to another.
    (b"connection", b"close"),
)
_HEARTBEAT = b":\n\n"


class GetOrderEvents:
    """Follow an order: what came after `Last-Event-ID`, or how it is now, and then each change.

    An ASGI app and not a function: Starlette's stream would cost two tasks for each who follows.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Raises what the middleware answers as a problem."""
        request = Request(scope)
        state = state_of(request)
        session = await state.tokens.session(bearer_token(request.headers))
        asked = request.path_params["order_id"]
        with state.streams.follow(row_id(asked), session.user) as follower:
            progress = await state.streams.look(row_id(asked))
            if progress is None or not _may_see(progress, session):
                raise OrderNotFound(order_id=asked)
            follower.position = _last_event_id(request.headers, progress)
            if progress.is_over and follower.position == progress.position:
                # All was told: this is how a browser is kept from asking again.
                await Response(status_code=204)(scope, receive, send)
                return
            scope[STREAMED] = True
            stream = _Stream(follower, state, session.expires_at, receive, send)
            await stream.run(progress, only_head=scope["method"] == "HEAD")


def _may_see(progress: Progress, session: Session) -> bool:
    return session.user.admin or progress.user_id == session.user.id


def _last_event_id(headers: Headers, progress: Progress) -> Position | None:
    """Return what the client saw last, if it says so.

    Raises Problem for what is no id of an event, or of none that this order can have had.
    """
    given = headers.getlist("last-event-id")
    if not any(given):
        return None
    seen = Position.parse(given[0]) if len(given) == 1 else None
    if seen is None or not seen.is_passed_by(progress.position):
        detail = "Send the `id` of an event of this order, or leave it out to begin anew."
        fault = Fault("Last-Event-ID", "id-of-an-event", detail)
        raise Problem(Kind.INVALID_HEADER, f"Last-Event-ID: {detail}", faults=[fault])
    return seen


class _Stream:
    """One stream, from its head to its end."""

    __slots__ = ("_expires_at", "_follower", "_receive", "_send", "_state")

    def __init__(
        self,
        follower: Follower,
        state: State,
        expires_at: float,
        receive: Receive,
        send: Send,
    ) -> None:
        self._follower = follower
        self._state = state
        self._expires_at = expires_at
        self._receive = receive
        self._send = send

    async def run(self, progress: Progress, *, only_head: bool) -> None:
        """Send what there is to tell, until nothing is left or the client leaves.

        It ends early where the process is about to stop, and with the token.
        """
        # A list of its own: the middleware adds to it.
        head = {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}
        await self._send(head)
        if not only_head:
            await self._write(f"retry: {random.randint(*_RETRY_MS)}\n\n".encode())  # noqa: S311
            if not await self._follow(progress):
                return
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, progress: Progress | None) -> bool:
        """Tell of the order again and again; return False if the client left."""
        while True:
            if progress is not None:
                await self._write(_told(progress, self._follower.position))
                self._follower.position = progress.position
                if progress.is_over:
                    return True
            left_s = self._expires_at - time.time()
            if left_s <= 0 or self._state.leaving.begun:
                return True
            if not await self._follower.rest(self._receive, min(HEARTBEAT_S, left_s)):
                return False
            progress = self._follower.take()
            if progress is None:
                await self._write(_HEARTBEAT)

    async def _write(self, text: bytes) -> None:
        await self._send({"type": "http.response.body", "body": text, "more_body": True})


def _told(progress: Progress, seen: Position | None) -> bytes:
    """Return the events after `seen`, with the end if nothing comes after them."""
    events = [_event("status", at, as_json(status)) for at, status in progress.since(seen)]
    if progress.is_over:
        events.append(_event("end", progress.position, {"orderId": str(progress.order_id)}))
    return "".join(events).encode()


def _event(name: str, position: Position, data: object) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\nid: {position}\ndata: {text}\n\n"
