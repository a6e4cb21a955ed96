"""The clients of the queues: one for all, and on a cluster one for each prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Self

from redis.asyncio import Redis

from orderflow.bull.connection import connect_producer
from orderflow.redis_servers import RedisServers


class QueueClients:
    """Gives the client of a prefix, which is made when it is first asked for.

    `connect` makes one. Only where they are `by_prefix` does each prefix have its own: on a cluster
    its keys are on one master, and those of another prefix may be on another.
    """

    def __init__(self, connect: Callable[[str], Redis], *, by_prefix: bool = False) -> None:
        self._connect = connect
        self._by_prefix = by_prefix
        self._made: dict[str, Redis] = {}

    @classmethod
    def to(cls, servers: RedisServers, timeout_ms: int) -> Self:
        """Return clients that answer or fail within `timeout_ms`."""
        return cls(partial(connect_producer, servers, timeout_ms), by_prefix=servers.cluster)

    def of(self, prefix: str) -> Redis:
        """Return the client for all keys that begin with this prefix."""
        place = prefix if self._by_prefix else ""
        if place not in self._made:
            self._made[place] = self._connect(prefix)
        return self._made[place]

    async def let_go(self, prefix: str) -> None:
        """Close the client of a prefix, if it is that one's alone."""
        client = self._made.pop(prefix, None) if self._by_prefix else None
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        """Close all clients that were made."""
        await asyncio.gather(*(client.aclose() for client in self._made.values()))
