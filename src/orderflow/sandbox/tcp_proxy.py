"""A TCP proxy that plays a bad network between a client and a server, for tests."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import StrEnum
from types import TracebackType
from typing import Self

_CHUNK = 65_536
#: Closing with this on tells the other side of an error at once, instead of a proper end.
_LINGER_NONE = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """What becomes of the bytes that come, and of new connections."""

    PASS = "pass"  # noqa: S105 - no password
    FREEZE = "freeze"  # they are kept, and go on with the next `PASS`: a network that is cut
    BLACK_HOLE = "black-hole"  # they are swallowed, and with them all that follows on a connection
    SLOW = "slow"  # each chunk waits `delay_s`
    RESET = "reset"  # connections are reset, and new ones too


class TcpProxy:
    """Listens on a loopback port and passes each connection on to `host:port`.

    Use it as an async context. It may be told another mode at any time. A connection that lost
    bytes to BLACK_HOLE never ends by itself and never carries any again, since a stream with a
    hole in it is nothing that a network hands over.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0, delay_s: float = 0.1) -> None:
        self._target = (host, port)
        self._listen = listen
        self.delay_s = delay_s
        self.port = 0
        self._mode = Mode.PASS
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def mode(self) -> Mode:
        """What it does now."""
        return self._mode

    def set_mode(self, mode: Mode) -> None:
        """Do this from now on, to the connections there are and to those to come."""
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode is Mode.RESET:
            self.reset_connections()

    def reset_connections(self) -> None:
        """Reset the connections there are. New ones go by the mode."""
        for writers in self._connections.values():
            for writer in writers:
                _reset(writer)

    async def __aenter__(self) -> Self:
        """Listen; `port` says where."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._listen)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more and end every connection."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs a handler in a task
        writers = self._connections[task] = [writer]
        try:
            if self._mode is Mode.RESET:
                return
            upstream = await asyncio.open_connection(*self._target)
            writers.append(upstream[1])
            lost = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream[1], lost))
                group.create_task(self._pump(upstream[0], writer, lost))
        except* OSError:
            pass  # one side is gone: so is the other, below
        finally:
            del self._connections[task]
            for opened in writers:
                _reset(opened)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        """Carry bytes one way until this side ends, which ends the other side with it."""
        while chunk := await reader.read(_CHUNK):
            if self._mode is Mode.SLOW:
                await asyncio.sleep(self.delay_s)
            while self._mode is Mode.FREEZE:
                await self._changed.wait()
            if self._mode is Mode.BLACK_HOLE:
                lost.set()
            if not lost.is_set():
                writer.write(chunk)
                await writer.drain()
        raise ConnectionResetError


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()
