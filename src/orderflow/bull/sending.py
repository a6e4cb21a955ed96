"""Connections that lose no cancel, as redis-py's may while they send on Python 3.11.

There `asyncio.wait_for`, by which redis-py sends, returns what is done and forgets a cancel that
came meanwhile: Ctrl-C stopped nothing, a pause took one more job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)


class _Cancellable(AbstractConnection):
    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send it, unless the task was cancelled: then nobody would read the reply."""
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > cancels:
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


class TcpConnection(_Cancellable, Connection):
    """A connection to a host and a port."""


class TlsConnection(_Cancellable, SSLConnection):
    """The same, over TLS."""


class SocketConnection(_Cancellable, UnixDomainSocketConnection):
    """A connection to a socket of this machine."""

    def __init__(self, **options: Any) -> None:
        options.pop("socket_keepalive", None)  # there is no line that could be dead
        super().__init__(**options)


#: What stands in the place of which connection of redis-py.
CANCELLABLE: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: TcpConnection,
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: SocketConnection,
}
