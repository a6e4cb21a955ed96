"""Adding jobs to the queues, asking where they are, and putting them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orderflow.bull.connection import connect_producer
from orderflow.bull.producer import NodeQueue
from orderflow.bull.trace import current_carrier
from orderflow.contract import JOB_OPTIONS, NewJob, Priorities
from orderflow.settings import Settings

log = structlog.get_logger(__name__)


class JobState(StrEnum):
    """Where a job is, as far as putting it back goes."""

    MISSING = "missing"
    LOST = "lost"  # its hash is there, but it is in no list: nobody would ever run it
    LIVE = "live"  # waiting, delayed or active: it will run, or is running
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job that comes back by itself: BullMQ's job scheduler of the same name."""

    job_name: str
    every_ms: int


class JobQueues:
    """The queues on one Redis, for a producer."""

    def __init__(
        self, client: Redis, prefix: str, priorities: Priorities, depth_limit: int
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._priorities = priorities
        self._depth_limit = depth_limit
        self._queues: dict[str, NodeQueue] = {}
        self._levels: dict[str, _Level] = {}

    def queue(self, name: str) -> NodeQueue:
        """Return BullMQ's own queue object; all share this connection."""
        if name not in self._queues:
            self._queues[name] = NodeQueue(
                name,
                {
                    "connection": self._client,
                    "prefix": self._prefix,
                    "defaultJobOptions": JOB_OPTIONS.to_bullmq(),
                },
            )
        return self._queues[name]

    async def add(self, job: NewJob) -> None:
        """Add a job; a no-op while one with its id exists. Raises redis.RedisError."""
        carrier = current_carrier()
        await self.queue(job.queue).scripts.add_prioritized(
            job.name.value,
            job.job_id,
            job.data.to_json_text(),
            self._priorities.number(job.priority),
            _OPTIONS if carrier is None else _OPTIONS | {"tm": carrier},
        )

    async def add_all(self, jobs: Iterable[NewJob]) -> None:
        """Add many jobs at once. Raises redis.RedisError; some may have been added then."""
        await asyncio.gather(*map(self.add, jobs))

    async def offer(self, job: NewJob) -> bool:
        """Add a job whose row is committed, or leave it to the reconciler.

        That is so while Redis is away, and while too many jobs wait: a row in PostgreSQL is
        cheaper than a job in Redis. Once full, a queue takes offers again only when half of its
        limit waits, so that the reconciler can feed in what is older first.
        """
        try:
            if await self._is_full(job.queue):
                return False
            await self.add(job)
        except (RedisError, OSError) as error:
            log.warning(
                "job left to the reconciler", job_id=job.job_id, reason=type(error).__name__
            )
            return False
        return True

    async def depth(self, queue: str) -> int:
        """Return how many jobs wait to be taken."""
        key = self._key(queue)
        prioritized, waiting, paused = await asyncio.gather(
            self._client.zcard(f"{key}:prioritized"),
            self._client.llen(f"{key}:wait"),
            self._client.llen(f"{key}:paused"),
        )
        return int(prioritized + waiting + paused)

    async def room(self, queue: str) -> int:
        """Return how many jobs may be added before the queue is as deep as it may be."""
        return max(0, self._depth_limit - await self.depth(queue))

    async def _is_full(self, queue: str) -> bool:
        level = self._levels.setdefault(queue, _Level())
        now = time.monotonic()
        if now >= level.look_at:
            # At once, so that of many callers one looks and the others go by what it saw before.
            level.look_at = now + _LEVEL_AGE_S
            depth = await self.depth(queue)
            level.full = depth >= (self._depth_limit / 2 if level.full else self._depth_limit)
        return level.full

    async def states(self, jobs: Sequence[NewJob]) -> list[JobState]:
        """Say where each of the jobs is, in their order, in a few round trips."""
        # Nearly all are missing or wait. The others are looked for in all sets, and in the lists,
        # which are searched from end to end, only those that are in no set.
        states = await self._look(jobs, ("prioritized",), ())
        for lists in ((), _LISTS):
            unclear = [n for n, state in enumerate(states) if state is JobState.LOST]
            if unclear:
                found = await self._look([jobs[n] for n in unclear], _SETS, lists)
                for n, state in zip(unclear, found, strict=True):
                    states[n] = state
        return states

    async def _look(
        self, jobs: Sequence[NewJob], sets: Sequence[str], lists: Sequence[str]
    ) -> list[JobState]:
        # One transaction: a job that moves while it is looked for is in one place or the other.
        async with self._client.pipeline(transaction=True) as pipeline:
            for job in jobs:
                key = self._key(job.queue)
                pipeline.exists(f"{key}:{job.job_id}")
                for name in sets:
                    pipeline.zscore(f"{key}:{name}", job.job_id)
                for name in lists:
                    pipeline.lpos(f"{key}:{name}", job.job_id)
            replies = iter(await pipeline.execute())
        return [
            _state(next(replies), {place: next(replies) for place in (*sets, *lists)}) for _ in jobs
        ]

    async def replace(self, job: NewJob) -> None:
        """Add a job in place of what is left of a lost one."""
        await self.queue(job.queue).remove(job.job_id)
        await self.add(job)

    async def retry(self, job: NewJob, state: JobState) -> bool:
        """Run a kept job that ended in `state` again, its attempts counted anew.

        False if it is not in that state any more.
        """
        kept = await self.queue(job.queue).getJob(job.job_id)
        if kept is None:
            return False
        try:
            await kept.retry(state.value, {"resetAttemptsMade": True, "resetAttemptsStarted": True})
        except TypeError:
            # BullMQ's own answer to a job that was removed or moved in between.
            return False
        return True

    async def result(self, job: NewJob) -> Any:
        """Return what a completed job returned, whoever ran it; None if it is gone."""
        kept = await self.queue(job.queue).getJob(job.job_id)
        return None if kept is None else kept.returnvalue

    async def ensure_schedule(self, queue: str, schedule: Schedule) -> bool:
        """Put a job scheduler (back) in place; return whether it was missing or different."""
        bull_queue = self.queue(queue)
        # Not getJobScheduler: it raises where there is none.
        current = await self._client.hget(f"{self._key(queue)}:repeat:{schedule.job_name}", "every")
        if current == str(schedule.every_ms):
            return False
        await bull_queue.upsertJobScheduler(
            schedule.job_name,
            {"every": schedule.every_ms},
            schedule.job_name,
            {},
            JOB_OPTIONS.to_bullmq(),
        )
        return True

    async def counts(self, queue: str) -> Mapping[str, int]:
        """Return the number of jobs in each of BullMQ's states."""
        counts: Mapping[str, int] = await self.queue(queue).getJobCounts(*_COUNTED)
        return counts

    async def priorities_in_use(self, queue: str) -> list[int]:
        """Return the priority numbers of the jobs that wait, the first of them: 20 at most."""
        key = f"{self._key(queue)}:prioritized"
        numbers: list[int] = []
        while len(numbers) < _PRIORITIES_LOOKED_AT:
            # A score is the priority times 2^32 and a counter, so each number is one jump away.
            beyond = (numbers[-1] + 1) * _PRIORITY_STEP if numbers else 0
            found = await self._client.zrange(
                key, beyond, "+inf", byscore=True, offset=0, num=1, withscores=True
            )
            if not found:
                break
            numbers.append(int(found[0][1]) // _PRIORITY_STEP)
        return numbers

    async def ping(self) -> None:
        """Return when Redis answers. Raises redis.RedisError."""
        await self._client.ping()

    def _key(self, queue: str) -> str:
        return f"{self._prefix}:{queue}"


@dataclass(slots=True)
class _Level:
    """What is known of a queue's depth, and when to look again."""

    full: bool = False
    look_at: float = 0.0


#: How old may be what is known of a queue's depth.
_LEVEL_AGE_S = 0.1
_OPTIONS = JOB_OPTIONS.to_bullmq()
_PRIORITIES_LOOKED_AT = 20
_PRIORITY_STEP = 2**32

_COUNTED = (
    "waiting",
    "prioritized",
    "active",
    "completed",
    "failed",
    "delayed",
    "paused",
    "waiting-children",
)

#: Where a job can be. Ours have a priority, so they wait in a set.
_SETS = ("completed", "failed", "prioritized", "delayed", "waiting-children")
_LISTS = ("active", "wait", "paused")


def _state(exists: int, places: Mapping[str, float | int | None]) -> JobState:
    if not exists:
        return JobState.MISSING
    found = {name for name, place in places.items() if place is not None}
    if "completed" in found:
        return JobState.COMPLETED
    if "failed" in found:
        return JobState.FAILED
    return JobState.LIVE if found else JobState.LOST


@asynccontextmanager
async def open_queues(settings: Settings) -> AsyncIterator[JobQueues]:
    """Give the queues of the Redis in `settings`, closed on leaving; Redis may be away."""
    client = connect_producer(settings.redis_dsn, settings.redis_timeout_ms)
    try:
        yield JobQueues(
            client, settings.queue_prefix, settings.priorities, settings.queue_depth_limit
        )
    finally:
        await client.aclose()
