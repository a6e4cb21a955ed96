"""Redis connections, with the time limits that BullMQ's Python client needs but does not set."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff

from orderflow.bull.pipelined import PipelinedRedis

#: BullMQ blocks for at most 10 s in one command. A reply that takes longer than this is a dead
#: connection, and anything less would win over the blocking wait and leave a worker deaf.
_WORKER_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 2.0


def connect_producer(dsn: str, timeout_ms: int) -> Redis:
    """Return a client that answers or fails within `timeout_ms`, for adding and looking."""
    timeout_s = timeout_ms / 1000
    return PipelinedRedis.from_url(
        dsn,
        # BullMQ reads text; without this a processor would silently get no data.
        decode_responses=True,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


def connect_worker(dsn: str) -> Redis:
    """Return a client for the commands of one BullMQ worker. The worker closes it."""
    return PipelinedRedis.from_url(dsn, **_WORKER_OPTIONS)


def connect_wait(dsn: str) -> Redis:
    """Return a client for the blocking wait of one BullMQ worker. The worker closes it."""
    return Redis.from_url(dsn, **_WORKER_OPTIONS)


_WORKER_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2,
    "socket_timeout": _WORKER_TIMEOUT_S,
    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
    "socket_keepalive": True,
    # BullMQ waits a whole second after a failure that reaches it; a restart needs less.
    "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
}
