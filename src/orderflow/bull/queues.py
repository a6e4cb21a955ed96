"""Adding jobs to the queues, asking where they are, and putting them back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import structlog
from bullmq import Queue
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orderflow.bull.connection import connect_producer
from orderflow.contract import JOB_OPTIONS, NewJob, Priorities
from orderflow.settings import Settings

log = structlog.get_logger(__name__)


class JobState(StrEnum):
    """Where a job is, as far as putting it back goes."""

    MISSING = "missing"
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

    def __init__(self, client: Redis, prefix: str, priorities: Priorities) -> None:
        self._client = client
        self._prefix = prefix
        self._priorities = priorities
        self._queues: dict[str, Queue] = {}

    def queue(self, name: str) -> Queue:
        """Return BullMQ's own queue object; all share this connection."""
        if name not in self._queues:
            self._queues[name] = Queue(
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
        await self.queue(job.queue).add(
            job.name.value,
            job.data.to_json(),
            {"jobId": job.job_id, "priority": self._priorities.number(job.priority)},
        )

    async def offer(self, job: NewJob) -> bool:
        """Add a job whose row is committed; while Redis is away it is the reconciler's to add."""
        try:
            await self.add(job)
        except (RedisError, OSError) as error:
            log.warning(
                "job left to the reconciler", job_id=job.job_id, reason=type(error).__name__
            )
            return False
        return True

    async def states(self, jobs: Sequence[NewJob]) -> list[JobState]:
        """Say where each of the jobs is, in their order, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for job in jobs:
                key = self._key(job.queue)
                pipeline.exists(f"{key}:{job.job_id}")
                pipeline.zscore(f"{key}:completed", job.job_id)
                pipeline.zscore(f"{key}:failed", job.job_id)
            replies = await pipeline.execute()
        return [_state(*replies[start : start + 3]) for start in range(0, len(replies), 3)]

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
        counts: Mapping[str, int] = await self.queue(queue).getJobCounts()
        return counts

    async def ping(self) -> None:
        """Return when Redis answers. Raises redis.RedisError."""
        await self._client.ping()

    def _key(self, queue: str) -> str:
        return f"{self._prefix}:{queue}"


def _state(exists: int, completed: float | None, failed: float | None) -> JobState:
    if not exists:
        return JobState.MISSING
    if completed is not None:
        return JobState.COMPLETED
    if failed is not None:
        return JobState.FAILED
    return JobState.LIVE


@asynccontextmanager
async def open_queues(settings: Settings) -> AsyncIterator[JobQueues]:
    """Give the queues of the Redis in `settings`, closed on leaving; Redis may be away."""
    client = connect_producer(settings.redis_dsn, settings.redis_timeout_ms)
    try:
        yield JobQueues(client, settings.queue_prefix, settings.priorities)
    finally:
        await client.aclose()
