"""The queues: looking where jobs are, and putting them back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from orderflow.breaker import Outage
from orderflow.bull.adding import AddingQueues
from orderflow.bull.changes import Changes
from orderflow.bull.clients import QueueClients
from orderflow.bull.producer import NodeQueue
from orderflow.bull.states import ASTRAY_MS, JobState, find_states
from orderflow.contract import JOB_OPTIONS, NewJob
from orderflow.metrics import breaker_shown
from orderflow.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job that comes back by itself: BullMQ's job scheduler of the same name."""

    job_name: str
    every_ms: int


class Place(NamedTuple):
    """The queue that a job is in, or would be, and where it is there."""

    queue: str
    state: JobState


class JobQueues(AddingQueues):
    """All that is done with the queues but to work on them."""

    @cached_property
    def changes(self) -> Changes:
        """Tells whoever shows orders that one of them changed."""
        return Changes(self._shared, self.names)

    async def states(self, jobs: Sequence[NewJob]) -> list[JobState]:
        """Say where each of the jobs is, in their order, in a few round trips."""
        if self.names.shards == 1:
            return await self._look([(job.queue, job.job_id) for job in jobs])
        return [place.state for place in await self.places(jobs)]

    async def places(self, jobs: Sequence[NewJob]) -> list[Place]:
        """Say for each of the jobs in which queue it is, or would be, and where there.

        One that its order's shard does not have may be in another: a producer that knows but one
        queue has put it there, or there were fewer shards.
        """
        queues = list(map(self.names.queue_of, jobs))
        states = await self._look([(q, job.job_id) for q, job in zip(queues, jobs, strict=True)])
        places = list(map(Place, queues, states))
        others = [
            (number, queue)
            for number, (job, place) in enumerate(zip(jobs, places, strict=True))
            if place.state is JobState.MISSING
            for queue in self.names.shards_of(job.queue)
            if queue != place.queue
        ]
        found = await self._look([(queue, jobs[number].job_id) for number, queue in others])
        for (number, queue), state in zip(others, found, strict=True):
            if state is not JobState.MISSING:
                places[number] = Place(queue, state)
        return places

    async def _look(self, wanted: Sequence[tuple[str, str]]) -> list[JobState]:
        """Say where the jobs of these queues and ids are."""
        by_queue: dict[str, list[str]] = {}
        for queue, job_id in wanted:
            by_queue.setdefault(queue, []).append(job_id)
        found = await asyncio.gather(
            *(find_states(self.queue(queue), ids) for queue, ids in by_queue.items())
        )
        states = dict(zip(by_queue, found, strict=True))
        return [states[queue][job_id] for queue, job_id in wanted]

    async def _queue_with(self, job: NewJob) -> NodeQueue:
        """Return the queue that has the job, or should have."""
        if self.names.shards == 1:
            return self.queue(job.queue)
        [place] = await self.places([job])
        return self.queue(place.queue)

    async def remove(self, job: NewJob) -> bool:
        """Remove a job, wherever it waits or is kept; False if a worker holds it."""
        return bool(await (await self._queue_with(job)).remove(job.job_id))

    async def replace(self, job: NewJob) -> None:
        """Add a job in place of what is left of a lost one."""
        await (await self._queue_with(job)).remove(job.job_id)
        await self.add(job)

    async def retry(self, job: NewJob, state: JobState) -> bool:
        """Run a kept job that ended in `state` again, its attempts counted anew.

        False if it is not in that state any more.
        """
        kept = await (await self._queue_with(job)).getJob(job.job_id)
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
        kept = await (await self._queue_with(job)).getJob(job.job_id)
        return None if kept is None else kept.returnvalue

    async def ensure_schedule(self, queue: str, schedule: Schedule) -> bool:
        """Put a job scheduler (back) in place; return whether it was missing or different.

        One is different, too, whose next job was put far away by a clock that was wrong.
        """
        bull_queue = self.queue(queue)
        client, schedules = self.client_of(queue), self.names.key(queue, "repeat")
        # Not getJobScheduler: it raises where there is none.
        current, next_ms, (now_s, _) = await asyncio.gather(
            client.hget(f"{schedules}:{schedule.job_name}", "every"),
            client.zscore(schedules, schedule.job_name),
            client.time(),
        )
        astray = (next_ms or 0) > now_s * 1_000 + schedule.every_ms + ASTRAY_MS
        if current == str(schedule.every_ms) and not astray:
            return False
        if astray:
            # With the same interval BullMQ would go on from there.
            await bull_queue.removeJobScheduler(schedule.job_name)
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
        client, key = self.client_of(queue), self.names.key(queue, "prioritized")
        numbers: list[int] = []
        while len(numbers) < _PRIORITIES_LOOKED_AT:
            # A score is the priority times 2^32 and a counter, so each number is one jump away.
            beyond = (numbers[-1] + 1) * _PRIORITY_STEP if numbers else 0
            found = await client.zrange(
                key, beyond, "+inf", byscore=True, offset=0, num=1, withscores=True
            )
            if not found:
                break
            numbers.append(int(found[0][1]) // _PRIORITY_STEP)
        return numbers

    async def tell_of_outage(self, breaker: str, outage: Outage | None) -> None:
        """Show that this process's breaker is open, or with None that it is closed.

        It is shown until then, or until nothing was heard of it for a while; processes share the
        place. While Redis is away nothing is shown.
        """
        key = self.names.outage(breaker)
        try:
            if outage is None:
                await self._shared.delete(key)
            else:
                rest = outage.until - datetime.now(UTC)
                await self._shared.set(key, outage.to_json(), px=rest + _OUTAGE_SHOWN)
        except (RedisError, OSError) as error:
            log.debug("outage not shown", breaker=breaker, reason=type(error).__name__)

    async def told_of_outage(self, breaker: str) -> Outage | None:
        """Return what processes tell of this breaker. Raises redis.RedisError."""
        told = await self._shared.get(self.names.outage(breaker))
        return None if told is None else Outage.from_json(str(told))

    async def ping(self) -> None:
        """Return when Redis answers for every queue. Raises redis.RedisError."""
        await asyncio.gather(*(client.ping() for client in self.clients()))


#: What is tried in vain after a rest takes its time, too.
_OUTAGE_SHOWN = timedelta(seconds=15)
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


@asynccontextmanager
async def open_queues(
    settings: Settings, kind: type[JobQueues] = JobQueues
) -> AsyncIterator[JobQueues]:
    """Give the queues of the Redis in `settings`, closed on leaving; Redis may be away."""
    clients = QueueClients.to(settings.redis_servers, settings.redis_timeout_ms)
    queues = kind(
        clients,
        settings.queue_names,
        settings.priorities,
        settings.queue_depth_limit,
        settings.redis_timeout_ms / 1000,
    )
    try:
        with breaker_shown("redis", queues.breakers):
            yield queues
    finally:
        await queues.changes.close()
        await clients.aclose()
