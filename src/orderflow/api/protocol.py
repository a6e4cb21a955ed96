"""How HTTP is spoken on a connection: what is waited for and held, and how answers are written."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from orderflow.api.leaving import LEAVING, Leaving
from orderflow.api.problems import Kind, Problem
from orderflow.metrics import HTTP_CONNECTIONS_REFUSED

#: Where the app's lifespan leaves the limits for its connections.
LIMITS = "connection_limits"
#: Request line and headers together; a body's trailers and what else frames it, too.
MAX_HEAD_BYTES = 32_768

#: How long a client that was refused may go on sending before the connection is closed.
_HEAR_OUT_S = 1.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """So many connections in one process, and so long for a request's head, and for its body."""

    connections: int
    request_timeout_s: float


class Protocol(HttpToolsProtocol):
    """uvicorn's, with limits that it has none of, and each answer written in one piece.

    uvicorn waits for ever for a head or a body that has begun, and keeps as much of a head as it
    is sent. It writes head and body of an answer each for itself, at a system call each: a tenth
    of a checkout's time went there, and the client woke up twice for one answer.
    """

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits: ConnectionLimits = app_state[LIMITS]
        self._leaving: Leaving = app_state[LEAVING]
        # Since when a head or a body is waited for, or None while a whole request is answered.
        self._waits_since: float | None = None
        self._begun = False
        self._in_head = False
        # Read since a part of a request, or of its body, was complete.
        self._unfinished_bytes = 0
        # One timer looks at a connection, whatever comes on it: one a request would cost more.
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it where there are too many."""
        super().connection_made(cast(asyncio.Transport, _JoinedWrites(transport, self.loop)))
        if len(self.connections) > self._limits.connections:
            self._refuse(Kind.TOO_MANY_CONNECTIONS, "Try again.")
            return
        self._waits_since = self.loop.time()
        self._look_in(self._limits.request_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and what had begun on it."""
        self._begun = False
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End, once what is being answered is. A stream has no end of its own, and sees this."""
        self._leaving.begun = True
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._unfinished_bytes += len(data)
        super().data_received(data)
        if self._begun and self._unfinished_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, or was found too large while it was read."""
        if self._in_head and self._unfinished_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(Kind.MALFORMED_REQUEST, "This is not HTTP/1.1.")

    def on_message_begin(self) -> None:
        """Wait for the rest of a head."""
        super().on_message_begin()
        self._begun = self._in_head = True
        self._waits_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Wait for a body. Raises ValueError for a head that is too large."""
        # Bytes of the body may have been read with it, so only the parts tell.
        if self._unfinished_bytes > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            raise ValueError
        self._in_head = False
        self._unfinished_bytes = 0
        self._waits_since = self.loop.time()
        super().on_headers_complete()
        if self._leaving.begun:
            # A load balancer that is told so keeps no connection which is about to be closed.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing: the request is whole."""
        self._unfinished_bytes = 0
        self._begun = False
        self._waits_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has come or this one is not over yet."""
        if self._waits_since is None and not self.pipeline:
            self._waits_since = self.loop.time()
        super().on_response_complete()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _look_in(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        left = request_timeout_s = self._limits.request_timeout_s
        if self._waits_since is not None:
            limit_s = self.timeout_keep_alive if self._is_kept() else request_timeout_s
            left = limit_s + self._waits_since - self.loop.time()
        if left > 0:
            # While it is kept a head may begin at any time, and has its own limit.
            self._look_in(min(left, request_timeout_s))
        elif self._begun:
            limit_s = self._limits.request_timeout_s
            self._refuse(
                Kind.REQUEST_TIMEOUT, f"Its head may take {limit_s} s, and then its body as long."
            )
        else:
            self.transport.close()

    def _is_kept(self) -> bool:
        """Say whether a request was answered, and the next has not begun."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not self._begun

    def _refuse_head(self) -> None:
        self._refuse(Kind.HEAD_TOO_LARGE, f"It may have {MAX_HEAD_BYTES} bytes at most.")

    def _refuse(self, kind: Kind, detail: str) -> None:
        """Close the connection, with an answer where it can be taken for no other."""
        if self.transport.is_closing():
            return
        HTTP_CONNECTIONS_REFUSED[kind.label,] += 1
        if self._owes_another_answer():
            self.transport.close()
            return
        self.transport.write(_answer(Problem(kind, detail)))
        if kind is Kind.TOO_MANY_CONNECTIONS:
            self.transport.close()  # no room to hear it out
        else:
            self._hear_out()

    def _hear_out(self) -> None:
        """Close the connection once the client has, or has had the time to read its answer."""
        self.transport.write_eof()
        self.transport.resume_reading()
        self.transport.set_protocol(_HearingOut(self.transport, self.loop))
        self.connection_lost(ConnectionAbortedError())  # for the app and the limits it is over

    def _owes_another_answer(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None:
            return False
        if self._begun and not self._in_head:
            return cycle.response_started or bool(self.pipeline)
        return not cycle.response_complete


def _answer(problem: Problem) -> bytes:
    """Return the whole answer. What path it is to may not be known yet, so none is named."""
    body = json.dumps(problem.to_json("/")).encode()
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **problem.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem.kind.status] + lines.encode() + b"\r\n" + body


class _HearingOut(asyncio.Protocol):
    """Reads what a client still sends after its last answer, and forgets it.

    To close while something lies unread resets the connection, and the answer may be lost with it
    (RFC 9112, section 9.6).
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._end = loop.call_later(_HEAR_OUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Wait no longer."""
        self._end.cancel()


class _JoinedWrites:
    """A transport that writes together what is written in one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._unwritten: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write `data`, at the end of this turn."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(data)

    def write_eof(self) -> None:
        """Say that nothing follows what is written."""
        self._flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection once all is written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the transport has."""
        return getattr(self._transport, name)

    def _flush(self) -> None:
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)
