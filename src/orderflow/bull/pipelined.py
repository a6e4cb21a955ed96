"""A Redis client that gathers the commands of one turn of the event loop into one pipeline.

It is redis-py's client, and BullMQ's own Queue and Worker take it as it is. What differs is the
way of a single command: redis-py gives each its own connection or its own turn on a shared one,
so that a hundred jobs cost a hundred writes and reads. Here all of them share one connection, on
which they are written together and answered in their order. redis-py still connects, logs in and
speaks TLS; then a protocol on hiredis takes the socket over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast
from weakref import WeakSet

import hiredis
from redis.asyncio import Redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, ResponseError

from orderflow.bull.finding import finder_of
from orderflow.bull.replies import has_left, is_moving, say_of_a_cluster
from orderflow.bull.wire import Wire

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
        self._wire: Wire | None = None
        self._left: WeakSet[Wire] = WeakSet()
        self._connecting: asyncio.Future[Wire] | None = None

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
        if wire is None or wire.closed:  # as `_open`, without a call for each command
            wire = await self._connected()
        try:
            return await wire.ask(packed)
        except ResponseError as error:
            return await self._send_elsewhere(packed, wire, error)

    async def send_all(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Send many commands for less than by `send`; an error stands in the place of its reply.

        Raises redis.RedisError if none can be sent, and TypeError for what is no argument.
        """
        wire = await self._open()
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
            # Its connection is open until it has ended.
            await asyncio.wait([self._connecting])
        for wire in (self._wire, *self._left):
            if wire is not None:
                wire.end(RedisConnectionError("the client was closed"))
        self._wire = None
        await super().aclose(close_connection_pool)

    async def _send_elsewhere(self, packed: bytes, wire: Wire, error: ResponseError) -> Any:
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
                raise RedisConnectionError(f"no server takes this now: {error}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            wire = await self._open()
            try:
                return await wire.ask(packed)
            except ResponseError as again:
                error = again
        raise error

    def _leave(self, wire: Wire) -> None:
        """Have the next command connect anew; what is under way here may still be answered."""
        self._wire = None
        self._left.add(wire)
        wire.end_later(self._moving_s)

    async def _open(self) -> Wire:
        wire = self._wire
        return await self._connected() if wire is None or wire.closed else wire

    async def _connected(self) -> Wire:
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

    def _forget_connecting(self, done: asyncio.Future[Wire]) -> None:
        self._connecting = None
        if not done.cancelled():
            done.exception()  # whoever waited has it

    async def _connect(self) -> Wire:
        connection = self.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        self._wire = Wire(connection)
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
