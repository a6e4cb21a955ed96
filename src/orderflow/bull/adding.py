"""The queues, and adding jobs to them: outright, or as an offer that takes no longer than told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orderflow.breaker import BreakerOpen, CircuitBreaker
from orderflow.bull.clients import QueueClients
from orderflow.bull.producer import NodeQueue
from orderflow.bull.scripts import ReadyJob
from orderflow.bull.trace import current_carrier
from orderflow.bull.wire import LAST_LOOK_S
from orderflow.contract import JOB_OPTIONS, NewJob, Priorities
from orderflow.metrics import JOB_OFFERS
from orderflow.queue_names import QueueNames

log = structlog.get_logger(__name__)


class AddingQueues:
    """The queues under one prefix, for a producer. An offer takes `offer_s` at most."""

    def __init__(
        self,
        clients: QueueClients,
        names: QueueNames,
        priorities: Priorities,
        depth_limit: int,
        offer_s: float = 0.25,
    ) -> None:
        #: How the queues and their keys are called.
        self.names = names
        self._clients = clients
        #: For what belongs to no queue. Made now: a URL that cannot be read is told at start.
        self._shared = clients.of(names.shared_prefix)
        self._priorities = priorities
        self._depth_limit = depth_limit
        self._offer_s = offer_s
        self.breakers = Breakers()
        self._queues: dict[str, NodeQueue] = {}
        self._levels: dict[str, _Level] = {}

    def client_of(self, queue: str) -> Redis:
        """Return the connection to look at what lies in Redis of a queue."""
        return self._clients.of(self.names.prefix_of(queue))

    async def let_go(self, queue: str) -> None:
        """Close the connection for a queue that is none, unless another queue has it."""
        prefix, names = self.names.prefix_of(queue), self.names
        if prefix not in {names.shared_prefix, *map(names.prefix_of, names.all())}:
            self._queues.pop(queue, None)
            await self._clients.let_go(prefix)

    def clients(self) -> list[Redis]:
        """Return the connections to the queues of the contract, each once."""
        return list(dict.fromkeys(map(self.client_of, self.names.all())))

    def queue(self, name: str) -> NodeQueue:
        """Return BullMQ's own queue object; it has the connection of `client_of`."""
        if name not in self._queues:
            self._queues[name] = NodeQueue(
                name,
                {
                    "connection": self.client_of(name),
                    "prefix": self.names.prefix_of(name),
                    "defaultJobOptions": JOB_OPTIONS.to_bullmq(),
                },
            )
        return self._queues[name]

    async def add(self, job: NewJob) -> None:
        """Add a job; a no-op while one with its id exists. Raises redis.RedisError."""
        await self._add(self.names.queue_of(job), job)

    async def add_all(self, jobs: Iterable[NewJob]) -> None:
        """Add many jobs at once. Raises redis.RedisError; some may have been added then."""
        by_queue: dict[str, list[ReadyJob]] = {}
        for job in jobs:
            by_queue.setdefault(self.names.queue_of(job), []).append(self._ready(job))
        for queue, ready in by_queue.items():
            await self.queue(queue).scripts.add_all_prioritized(ready)

    async def _add(self, queue: str, job: NewJob) -> None:
        await self.queue(queue).scripts.add_prioritized(self._ready(job))

    def _ready(self, job: NewJob) -> ReadyJob:
        carrier = current_carrier()
        return ReadyJob(
            job.name.value,
            job.job_id,
            job.data,
            self._priorities.number(job.priority),
            _OPTIONS if carrier is None else _OPTIONS | {"tm": carrier},
        )

    async def offer(self, job: NewJob) -> bool:
        """Add a job whose row is committed, or leave it to the reconciler.

        That is so while Redis is away, and while too many jobs wait: a row in PostgreSQL is
        cheaper than a job in Redis. Once full, a queue takes offers again only when half of its
        limit waits, so that the reconciler can feed in what is older first. Once offers failed,
        about one in a second looks whether Redis is back, and the others do not wait for it.
        """
        queue = self.names.queue_of(job)
        outcome = await self._offer(queue, job)
        JOB_OFFERS[queue, outcome] += 1
        return outcome == _ADDED

    async def _offer(self, queue: str, job: NewJob) -> str:
        level = self._level(queue)
        is_known = time.monotonic() < level.look_at
        if is_known and level.full:
            return _FULL
        line = level.line
        was_left_alone = line.breaker.is_open
        try:
            with line.breaker.attempt(RedisError, OSError):
                if is_known and line.answers:
                    # One command on an open connection, which has a time-out of its own.
                    await self._add(queue, job)
                    return _ADDED
                taken = await self._in_time(self._add_unless_full(queue, job))
        except BreakerOpen:
            return _RESTING
        except (RedisError, OSError) as error:
            line.answers = False
            log.warning(
                "job left to the reconciler",
                job_id=job.job_id,
                reason=type(error).__name__,
                others_too=line.breaker.is_open,
            )
            return _FAILED
        line.answers = True
        if was_left_alone:
            log.info("Redis takes jobs again")
        return _ADDED if taken else _FULL

    async def _add_unless_full(self, queue: str, job: NewJob) -> bool:
        if await self._is_full(queue):
            return False
        await self._add(queue, job)
        return True

    async def _in_time(self, adding: Coroutine[Any, Any, bool]) -> bool:
        """Await `adding`, which meets several time-outs of its own. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            # The loop itself may have stood still: what lies in the socket is read first.
            last_look = loop.call_later(
                max(0.0, self._offer_s - LAST_LOOK_S),
                lambda: limit.reschedule(loop.time() + LAST_LOOK_S),
            )
            try:
                return await adding
            finally:
                last_look.cancel()

    async def depth(self, queue: str) -> int:
        """Return how many jobs wait to be taken."""
        client, key = self.client_of(queue), self.names.key
        prioritized, waiting, paused = await asyncio.gather(
            client.zcard(key(queue, "prioritized")),
            client.llen(key(queue, "wait")),
            client.llen(key(queue, "paused")),
        )
        return int(prioritized + waiting + paused)

    async def room(self, queue: str) -> int:
        """Return how many jobs may be added before the queue is as deep as it may be."""
        return max(0, self._depth_limit - await self.depth(queue))

    async def _is_full(self, queue: str) -> bool:
        level = self._level(queue)
        now = time.monotonic()
        if now >= level.look_at:
            # At once, so that of many callers one looks and the others go by what it saw before.
            level.look_at = now + _LEVEL_AGE_S
            depth = await self.depth(queue)
            level.full = depth >= (self._depth_limit / 2 if level.full else self._depth_limit)
        return level.full

    def _level(self, queue: str) -> _Level:
        level = self._levels.get(queue)
        if level is None:
            level = self._levels[queue] = _Level(self.breakers.line(self.client_of(queue)))
        return level


@dataclass(slots=True)
class _Line:
    """What is known of one connection: whether it answered last, and whether it is left alone."""

    breaker: CircuitBreaker
    answers: bool = False


class Breakers:
    """The breakers of the offers, one for each connection, which are shown as one."""

    def __init__(self) -> None:
        self._lines: dict[Redis, _Line] = {}

    def line(self, client: Redis) -> _Line:
        """Return what is known of a connection."""
        if client not in self._lines:
            breaker = CircuitBreaker(_FAILED_OFFERS, _OFFERS_REST_S, _OFFERS_REST_S)
            self._lines[client] = _Line(breaker)
        return self._lines[client]

    @property
    def is_open(self) -> bool:
        """Whether any of them is open."""
        return any(line.breaker.is_open for line in self._lines.values())

    @property
    def changes(self) -> int:
        """How often they opened and closed."""
        return sum(line.breaker.changes for line in self._lines.values())


@dataclass(slots=True)
class _Level:
    """What is known of a queue's depth, and when to look again."""

    line: _Line
    full: bool = False
    look_at: float = 0.0


#: What becomes of an offer.
_ADDED, _FULL, _RESTING, _FAILED = "added", "full", "resting", "failed"

#: How old may be what is known of a queue's depth.
_LEVEL_AGE_S = 0.1
#: One failure may be a connection that was lost; so many in a row are a Redis that is away.
_FAILED_OFFERS = 3
_OFFERS_REST_S = 1.0
_OPTIONS = JOB_OPTIONS.to_bullmq()
