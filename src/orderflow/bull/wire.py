"""One open connection to Redis: commands go out together, and each reply belongs to the oldest.

redis-py connects, logs in and speaks TLS; then the socket is taken over, and read by hiredis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast
from weakref import WeakSet

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.metrics import PIPELINE_COMMANDS, PIPELINE_DEPTH

#: Commands that are on their way at once; the rest wait here, so that neither side's buffers grow.
MAX_IN_FLIGHT = 128
#: So many are sent before the turn is over: Redis works on them while we make the next. Fewer while
#: it has nothing to do: a few slots would else all wait for Redis, and then Redis for all of them.
#: But a quarter of what there was the last time: what is answered together comes together to
#: PostgreSQL, where a large batch costs little more than a small one.
_WORTH_SENDING, _WORTH_STARTING, _PART_WORTH_STARTING = 16, 4, 4

#: A loop that stood still reads what lies in its sockets before it calls anybody late.
LAST_LOOK_S = 0.01
_NOT_ENOUGH = object()


class Wire(asyncio.Protocol):
    """One open connection: commands go out together, and each reply belongs to the oldest."""

    def __init__(self, connection: Connection) -> None:
        encoder = connection.encoder
        decoding = {"encoding": encoder.encoding, "errors": encoder.encoding_errors}
        self._replies = hiredis.Reader(
            replyError=BaseParser.parse_error,
            notEnoughData=_NOT_ENOUGH,
            **(decoding if encoder.decode_responses else {}),
        )
        self._timeout_s: float | None = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._sent: deque[asyncio.Future[Any]] = deque()
        self._flush_is_due = False
        self._patience: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._worth_starting = _WORTH_STARTING
        self._sent_since_rest = 0
        self.closed = False
        # The handshake is over and nothing is under way, so no byte can be lost between the two.
        self._connection = connection
        self._transport = cast(asyncio.StreamWriter, connection._writer).transport
        self._transport.set_protocol(self)
        _wires.add(self)

    @property
    def depth(self) -> int:
        """How many commands are under way, or wait to be sent."""
        return len(self._sent) + len(self._unsent)

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Return the reply to come. A caller that gives up leaves the others' replies in order."""
        reply = self._loop.create_future()
        if self.closed:
            reply.set_exception(RedisConnectionError("the connection was closed"))
            return reply
        self._unsent.append((packed, reply))
        enough = _WORTH_SENDING if self._sent else self._worth_starting
        if enough <= len(self._unsent) <= MAX_IN_FLIGHT - len(self._sent):
            self._flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_at_end_of_turn)
        return reply

    def data_received(self, data: bytes) -> None:
        """Give each reply to the command it belongs to."""
        self._heard_at = self._loop.time()
        replies, sent = self._replies, self._sent
        replies.feed(data)
        while True:
            try:
                reply = replies.gets()
            except UnicodeDecodeError as error:
                reply = error  # what a stranger wrote: one command's trouble, not the others'
            except hiredis.ProtocolError as error:
                self.end(RedisConnectionError(f"not the protocol of Redis: {error}"))
                return
            if reply is _NOT_ENOUGH or not sent:
                break
            if isinstance(reply, hiredis.PushNotification):
                continue
            waiting = sent.popleft()
            if waiting.done():
                continue
            if isinstance(reply, Exception):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)
        if self._unsent:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way: nobody knows what Redis did of it."""
        self.end(RedisConnectionError(f"the connection to Redis was lost: {exc or 'closed'}"))

    def end_later(self, after_s: float) -> None:
        """Close the connection after so long, in which what is under way may be answered."""
        late = RedisConnectionError("Redis is elsewhere now")
        self._loop.call_later(after_s, self.end, late)

    def end(self, error: Exception) -> None:
        """Close the connection, and fail with `error` whatever waits for a reply."""
        if self.closed:
            return
        self.closed = True
        if self._patience is not None:
            self._patience.cancel()
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]
        waiting = [*self._sent, *(reply for _, reply in self._unsent)]
        self._sent.clear()
        self._unsent.clear()
        for reply in waiting:
            if not reply.done():
                reply.set_exception(error)

    def _flush_at_end_of_turn(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        room = MAX_IN_FLIGHT - len(self._sent)
        if self.closed or room <= 0:
            return
        unsent = self._unsent
        out = []
        while unsent and room:
            packed, reply = unsent.popleft()
            if reply.cancelled():
                continue
            out.append(packed)
            self._sent.append(reply)
            room -= 1
        if not out:
            return
        if len(out) == len(self._sent):
            self._heard_at = self._loop.time()  # nothing was owed: patience begins now
            part = self._sent_since_rest // _PART_WORTH_STARTING
            self._worth_starting = min(_WORTH_SENDING, max(_WORTH_STARTING, part))
            self._sent_since_rest = 0
        self._sent_since_rest += len(out)
        PIPELINE_COMMANDS.observe(len(out))
        self._transport.write(b"".join(out))
        if self._patience is None and self._timeout_s is not None:
            self._patience = self._loop.call_later(self._timeout_s, self._look)

    def _look(self) -> None:
        """See whether Redis owes a reply and was silent for too long."""
        self._patience = None
        if self.closed or not self._sent or self._timeout_s is None:
            return
        rest_s = self._heard_at + self._timeout_s - self._loop.time()
        if rest_s > 0:
            self._patience = self._loop.call_later(rest_s, self._look)
        else:
            # The loop itself may have stood still: what lies in the socket is read first.
            self._patience = self._loop.call_later(LAST_LOOK_S, self._give_up, self._heard_at)

    def _give_up(self, heard_at: float) -> None:
        self._patience = None
        if self._heard_at == heard_at and self._sent:
            self.end(RedisTimeoutError(f"Redis was silent for {self._timeout_s} s"))
        else:
            self._look()


_wires: WeakSet[Wire] = WeakSet()
PIPELINE_DEPTH.add(lambda: sum(wire.depth for wire in _wires))
