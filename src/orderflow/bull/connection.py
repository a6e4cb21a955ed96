"""Redis connections, with the time limits that BullMQ's Python client needs but does not set.

A client talks to one server: the one there is, or the master that `finding.py` finds at every
connect. All keys that it is asked for begin with its `prefix`, which decides that in a cluster.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.bull.finding import FoundConnection, FoundTlsConnection, finder_for
from orderflow.bull.pipelined import PipelinedRedis
from orderflow.bull.sending import CANCELLABLE, TcpConnection, TlsConnection
from orderflow.redis_servers import RedisServers

Client = TypeVar("Client", bound=Redis)

#: A Redis that owes a reply for so long is gone, or is not to be reached on this connection. A
#: lost connection is not noticed in another way, and TCP would go on with it for minutes.
_WORKER_TIMEOUT_S = 2.0
#: Longest wait for a job in one command. Less than the above by what a stall may take, or the
#: time-out would win over the wait and leave a worker deaf.
BLOCK_S = 1
#: For each of the two steps: the connection, and the login on it.
_CONNECT_TIMEOUT_S = 1.0


def connect_producer(servers: RedisServers, timeout_ms: int, prefix: str) -> Redis:
    """Return a client that answers or fails within `timeout_ms`, for adding and looking."""
    timeout_s = timeout_ms / 1000
    options = {
        # BullMQ reads text; without this a processor would silently get no data.
        "decode_responses": True,
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    return _client(PipelinedRedis, servers, prefix, options)


def connect_worker(servers: RedisServers, prefix: str) -> Redis:
    """Return a client for the commands of one BullMQ worker. The worker closes it."""
    return _client(PipelinedRedis, servers, prefix, _WORKER_OPTIONS)


def connect_wait(servers: RedisServers, prefix: str) -> Redis:
    """Return a client for the blocking wait of one BullMQ worker. The worker closes it."""
    return _client(Redis, servers, prefix, _WORKER_OPTIONS)


def connect_listener(servers: RedisServers, prefix: str) -> Redis:
    """Return a client for listening to a channel. Whoever listens closes it."""
    return _client(Redis, servers, prefix, _WORKER_OPTIONS)


def _client(
    kind: type[Client], servers: RedisServers, prefix: str, options: dict[str, Any]
) -> Client:
    pool = ConnectionPool.from_url(servers.first_dsn, **options)
    pool.connection_class = CANCELLABLE[pool.connection_class]
    finder = finder_for(servers, prefix, pool.connection_class, pool.connection_kwargs)
    if finder is not None:
        pool.connection_class = _FINDING[pool.connection_class]
        pool.connection_kwargs["finder"] = finder
    return cast(Client, kind.from_pool(pool))


async def _log_in(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await connection.on_connect()
    except TimeoutError as error:
        raise RedisTimeoutError("Redis was silent at login") from error


_FINDING: dict[type[AbstractConnection], type[AbstractConnection]] = {
    TcpConnection: FoundConnection,
    TlsConnection: FoundTlsConnection,
}

_WORKER_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2,
    "socket_timeout": _WORKER_TIMEOUT_S,
    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
    "socket_keepalive": True,
    "redis_connect_func": _log_in,
    # The worker tries again by itself, and sooner than several tries here would end.
    "retry": Retry(NoBackoff(), 0),
}
