"""Telling which orders changed, on a channel of Redis: whoever shows one looks at its rows then.

A message is a hint, and no more: it says where to look, not what is there. One that is lost costs
a delay, since listeners look by themselves now and then. So nothing waits for it to be sent.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import Context
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from orderflow.bull.connection import connect_listener
from orderflow.queue_names import QueueNames
from orderflow.redis_servers import RedisServers

#: For how long nothing is told after nobody heard: so nobody listening costs next to nothing.
QUIET_S = 1.0
#: How long the end of a process waits for what is still to be told.
_LAST_WORDS_S = 0.25
#: Silent for so many looks in a row, though each asked for an answer, Redis is gone.
_MOST_SILENCES = 3
#: Messages that are taken at once, so that what they tell of is looked at.
_MOST_MESSAGES = 1_000


class Changes:
    """Tells of orders whose rows have changed. What changes in one turn of the loop goes together.

    While one message is under way the next is gathered.
    """

    def __init__(self, client: Redis, names: QueueNames) -> None:
        self._client = client
        self._channel = names.orders_changed
        self._unsaid: set[UUID] = set()
        self._quiet_until = 0.0
        self._saying: asyncio.Task[None] | None = None

    def tell(self, order_id: UUID) -> None:
        """Have it told that the order's rows have changed, and been committed. It never waits."""
        if time.monotonic() < self._quiet_until:
            return
        self._unsaid.add(order_id)
        if self._saying is None:
            # Not in the context of this caller: a message belongs to all of them.
            self._saying = asyncio.create_task(self._say(), context=Context())

    async def close(self) -> None:
        """Return when all is told, or it takes too long."""
        if self._saying is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._saying, _LAST_WORDS_S)

    async def _say(self) -> None:
        try:
            while self._unsaid:
                text = " ".join(map(str, self._unsaid))
                self._unsaid.clear()
                if not await self._heard_by(text):
                    self._quiet_until = time.monotonic() + QUIET_S
                    self._unsaid.clear()
        finally:
            self._saying = None

    async def _heard_by(self, text: str) -> int:
        try:
            return int(await self._client.publish(self._channel, text))
        except (RedisError, OSError):
            return 0


class ChangesListener:
    """Hears of changed orders, on a connection of its own, which is made when it is listened to."""

    def __init__(self, servers: RedisServers, names: QueueNames) -> None:
        self._servers = servers
        self._names = names
        self._client: Redis | None = None
        self._ear: PubSub | None = None
        self._silences = 0
        #: How often it began to listen: what was told before each of them it has not heard.
        self.beginnings = 0

    async def heard(self, wait_s: float) -> set[str]:
        """Return the ids of orders that changed, as text; wait so long for the first message.

        Raises redis.RedisError or OSError while Redis is away; the next call connects anew.
        """
        try:
            return await self._heard(self._ear or await self._listen(), wait_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening."""
        client, ear, self._client, self._ear = self._client, self._ear, None, None
        if ear is not None:
            # It waits for nothing, so a cancel cannot come before it: the pool's close may be
            # cancelled before it has begun, and would leave the connection open.
            await ear.aclose()  # type: ignore[no-untyped-call]
        if client is not None:
            await client.aclose()

    async def _listen(self) -> PubSub:
        self._client = connect_listener(self._servers, self._names.shared_prefix)
        self._silences = 0
        self._ear = self._client.pubsub()
        await self._ear.subscribe(self._names.orders_changed)
        return self._ear

    async def _heard(self, ear: PubSub, wait_s: float) -> set[str]:
        ids: set[str] = set()
        message = await ear.get_message(timeout=wait_s)
        if message is None:
            if wait_s:
                await self._ask_for_a_sign(ear)
            return ids
        self._silences = 0
        for _ in range(_MOST_MESSAGES):
            if message["type"] == "message":
                ids.update(message["data"].split())
            elif message["type"] == "subscribe":
                self.beginnings += 1
            message = await ear.get_message(timeout=0)
            if message is None:
                break
        return ids

    async def _ask_for_a_sign(self, ear: PubSub) -> None:
        """Ask Redis for an answer, which the next look hears. Raises redis.ConnectionError."""
        self._silences += 1
        if self._silences >= _MOST_SILENCES:
            raise RedisConnectionError("Redis is silent")
        await ear.ping()
