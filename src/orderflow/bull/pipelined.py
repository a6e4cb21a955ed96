"""A Redis client that gathers the commands of one turn of the event loop into one pipeline.

It is redis-py's client, and BullMQ's own Queue and Worker take it as it is. What differs is the
way of a single command: redis-py gives each its own connection or its own turn on a shared one,
so that a hundred jobs cost a hundred writes and reads. Here all of them share one connection, on
which they are written together and answered in their order. redis-py still connects, logs in and
speaks TLS; then a protocol on hiredis takes the socket over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, cast
from weakref import WeakSet

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.bull.finding import finder_of
from orderflow.bull.replies import has_left, is_moving, say_of_a_cluster
from orderflow.metrics import PIPELINE_COMMANDS, PIPELINE_DEPTH

#: Commands that are on their way at once; the rest wait here, so that neither side's buffers grow.
MAX_IN_FLIGHT = 128
#: So many are sent before the turn is over: Redis works on them while we make the next. Fewer while
#: it has nothing to do: a few slots would else all wait for Redis, and then Redis for all of them.
_WORTH_SENDING, _WORTH_STARTING = 16, 4

#: They hold a connection until something happens, so they get one to themselves.
_BLOCKING = frozenset(
    {
        *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH"),
        *("BZMPOP", "BZPOPMAX", "BZPOPMIN", "XREAD", "XREADGROUP"),
        *("MONITOR", "WAIT", "WAITAOF"),
    }
)

#: Between two tries of a command whose keys are on their way to another server; the first at once.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
#: How long is tried where a client has no limit of its own.
_MOVING_S = 2.0

#: A loop that stood still reads what lies in its sockets before it calls anybody late.
LAST_LOOK_S = 0.01
_NOT_ENOUGH = object()


class PipelinedRedis(Redis):
    """`redis.asyncio.Redis`, its single commands pipelined.

    A command that is under way when the connection fails raises redis.ConnectionError, or
    redis.TimeoutError if Redis was silent for `socket_timeout`: it may or may not have been done.
    It is never sent twice. The next command connects anew.

    Where the master has to be found, a command is sent to the next one if this one says that it was
    not done here, for as long as `socket_timeout`; then it raises redis.ConnectionError.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.connection_pool.connection_kwargs
        self._finder = finder_of(self)
        self._moving_s: float = options.get("socket_timeout") or _MOVING_S
        self._wire: _Wire | None = None
        self._left: WeakSet[_Wire] = WeakSet()
        self._connecting: asyncio.Future[_Wire] | None = None

    def register_script(self, script: Any) -> AsyncScript:  # type: ignore[override]
        """Return a script that is called as redis-py's is, and costs less to call."""
        return _PipelinedScript(self, script)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply."""
        name = args[0]
        if name in _BLOCKING or NEVER_DECODE in options or EMPTY_RESPONSE in options:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        reply = await self.send(*args)
        callback = self.response_callbacks.get(name)
        if callback is None:
            return reply
        options.pop("keys", None)
        return callback(reply, **options)

    async def send(self, *args: Any) -> Any:
        """Send a command and return its reply as it came."""
        if " " in args[0]:
            args = (*args[0].split(), *args[1:])
        try:
            packed = hiredis.pack_command(args)
        except TypeError as error:
            raise DataError(str(error)) from error
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._connected()
        try:
            return await wire.ask(packed)
        except ResponseError as error:
            return await self._send_elsewhere(packed, wire, error)

    async def send_all(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send many commands for less than by `send`; an error stands in the place of its reply.

        Raises redis.RedisError if none can be sent, and TypeError for what is no argument.
        """
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._connected()
        packed = [hiredis.pack_command(tuple(command)) for command in commands]
        replies = await asyncio.gather(*map(wire.ask, packed), return_exceptions=True)
        errors = {n: reply for n, reply in enumerate(replies) if isinstance(reply, ResponseError)}
        again = await asyncio.gather(
            *(self._send_elsewhere(packed[n], wire, error) for n, error in errors.items()),
            return_exceptions=True,
        )
        for n, reply in zip(errors, again, strict=True):
            replies[n] = reply
        return replies

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections. Commands under way raise redis.ConnectionError."""
        if self._connecting is not None:
            self._connecting.cancel()
        for wire in (self._wire, *self._left):
            if wire is not None:
                wire.end(RedisConnectionError("the client was closed"))
        self._wire = None
        await super().aclose(close_connection_pool)

    async def _send_elsewhere(self, packed: bytes, wire: _Wire, error: ResponseError) -> Any:
        """Send a command again that was not done, since its keys are elsewhere or on their way.

        Any other error is raised as it is.
        """
        if self._finder is None:
            say_of_a_cluster(error)
            raise error
        until = asyncio.get_running_loop().time() + self._moving_s
        pause_s = 0.0
        while has_left(error) or is_moving(error):
            if has_left(error) and self._wire is wire:
                self._finder.learn(error)
                self._leave(wire)
            if asyncio.get_running_loop().time() + pause_s > until:
                raise RedisConnectionError(f"the keys are on the way: {error}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            wire = await self._open()
            try:
                return await wire.ask(packed)
            except ResponseError as again:
                error = again
        raise error

    def _leave(self, wire: _Wire) -> None:
        """Have the next command connect anew; what is under way here may still be answered."""
        self._wire = None
        self._left.add(wire)
        wire.end_later()

    async def _open(self) -> _Wire:
        wire = self._wire
        return await self._connected() if wire is None or wire.closed else wire

    async def _connected(self) -> _Wire:
        """Return the open wire; many that ask at once make one."""
        connecting = self._connecting
        if connecting is None:
            connecting = self._connecting = asyncio.ensure_future(self._connect())
            connecting.add_done_callback(self._forget_connecting)
        try:
            # One that asked may give up; the others still want it.
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if connecting.cancelled():
                raise RedisConnectionError("the client was closed") from None
            raise

    def _forget_connecting(self, done: asyncio.Future[_Wire]) -> None:
        self._connecting = None
        if not done.cancelled():
            done.exception()  # whoever waited has it

    async def _connect(self) -> _Wire:
        connection = self.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        self._wire = _Wire(connection)
        return self._wire


class _PipelinedScript(AsyncScript):
    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        if client is not None:
            return await super().__call__(keys, args, client)
        keys = keys or ()
        command = ("EVALSHA", self.sha, len(keys), *keys, *(args or ()))
        redis = cast(PipelinedRedis, self.registered_client)
        try:
            return await redis.send(*command)
        except NoScriptError:
            await redis.script_load(self.script)
            return await redis.send(*command)

    async def call_all(self, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Call the script for each keys and arguments; an error stands in the place of a reply."""
        redis = cast(PipelinedRedis, self.registered_client)
        commands = [("EVALSHA", self.sha, len(keys), *keys, *args) for keys, args in calls]
        # Once, and not for each call that Redis would answer that it does not know the script.
        await redis.script_load(self.script)
        replies = await redis.send_all(commands)
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # Another master than the one it was loaded on.
            await redis.script_load(self.script)
            again = await redis.send_all(commands[n] for n in unknown)
            for n, reply in zip(unknown, again, strict=True):
                replies[n] = reply
        return replies


class _Wire(asyncio.Protocol):
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
        enough = _WORTH_SENDING if self._sent else _WORTH_STARTING
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

    def end_later(self) -> None:
        """Close the connection when whatever is under way was answered, or is late."""
        late = RedisConnectionError("Redis is elsewhere now")
        self._loop.call_later(self._timeout_s or _MOVING_S, self.end, late)

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


_wires: WeakSet[_Wire] = WeakSet()
PIPELINE_DEPTH.add(lambda: sum(wire.depth for wire in _wires))
