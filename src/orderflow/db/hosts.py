"""PostgreSQL at one of several addresses: the one that answered last is asked first.

A client that goes through them in order waits at one that is gone, without an answer, for as long
as it may wait at all, and never comes to the next. Here each has its share of the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

Connect = Callable[..., Awaitable[Any]]

#: What one address may fail by, with another still to be asked: it is away, starting, or a replica
#: where target_session_attrs asks for what can be written to.
_NOT_HERE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)


def connect_to(dsn: str, timeout_s: float) -> Connect:
    """Return what connects to `dsn` within `timeout_s`, as a pool of asyncpg takes it."""
    addresses = addresses_of(dsn)
    share_s = timeout_s / len(addresses)
    answered_last = 0

    async def connect(_dsn: str, **options: Any) -> Any:
        nonlocal answered_last
        failed: Exception | None = None
        first = answered_last
        for number in (*range(first, len(addresses)), *range(first)):
            try:
                connection = await asyncpg.connect(addresses[number], timeout=share_s, **options)
            except _NOT_HERE as error:
                failed = error
            else:
                answered_last = number
                return connection
        raise failed or OSError("no address to connect to")

    return connect


def addresses_of(dsn: str) -> list[str]:
    """Return a URL for each of the hosts that `dsn` names, with all else that it says."""
    url = urlsplit(dsn)
    user, at, hosts = url.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [urlunsplit(url._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]
