"""Adding jobs to the queues, asking where they are, and putting them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orderflow.breaker import BreakerOpen, CircuitBreaker, Outage, outage_key
from orderflow.bull.changes import Changes
from orderflow.bull.connection import connect_producer
from orderflow.bull.pipelined import LAST_LOOK_S
from orderflow.bull.producer import NodeQueue
from orderflow.bull.scripts import ReadyJob
from orderflow.bull.suspects import PUT_ASIDE
from orderflow.bull.trace import current_carrier
from orderflow.contract import JOB_OPTIONS, NewJob, Priorities
from orderflow.metrics import JOB_OFFERS, breaker_shown
from orderflow.settings import Settings

log = structlog.get_logger(__name__)


class JobState(StrEnum):
    """Where a job is, as far as putting it back goes."""

    MISSING = "missing"
    LOST = "lost"  # its hash is there, but it is in no list: nobody would ever run it
    LIVE = "live"  # waiting or delayed: it will run
    ASTRAY = "astray"  # delayed by a clock that was wrong: it would run, but much too late
    ACTIVE = "active"  # a worker is at it, or died over it: BullMQ's look for such finds it
    COMPLETED = "completed"
    FAILED = "failed"
    PUT_ASIDE = "put aside"  # failed, since it ended every worker that ran it


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job that comes back by itself: BullMQ's job scheduler of the same name."""

    job_name: str
    every_ms: int


class JobQueues:
    """The queues on one Redis, for a producer. An offer takes `offer_s` at most."""

    def __init__(
        self,
        client: Redis,
        prefix: str,
        priorities: Priorities,
        depth_limit: int,
        offer_s: float = 0.25,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._priorities = priorities
        self._depth_limit = depth_limit
        self._offer_s = offer_s
        self.breaker = CircuitBreaker(_FAILED_OFFERS, _OFFERS_REST_S, _OFFERS_REST_S)
        self._answers = False
        self._queues: dict[str, NodeQueue] = {}
        self._levels: dict[str, _Level] = {}
        self._states = client.register_script(_STATES_SCRIPT)
        #: To tell whoever shows orders that one of them changed.
        self.changes = Changes(client, prefix)

    @property
    def client(self) -> Redis:
        """The connection, to look at what lies in Redis."""
        return self._client

    @property
    def prefix(self) -> str:
        """What the names of all keys begin with."""
        return self._prefix

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
        await self.queue(job.queue).scripts.add_prioritized(self._ready(job))

    async def add_all(self, jobs: Iterable[NewJob]) -> None:
        """Add many jobs at once. Raises redis.RedisError; some may have been added then."""
        by_queue: dict[str, list[ReadyJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(self._ready(job))
        for queue, ready in by_queue.items():
            await self.queue(queue).scripts.add_all_prioritized(ready)

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
        outcome = await self._offer(job)
        JOB_OFFERS[job.queue, outcome] += 1
        return outcome == _ADDED

    async def _offer(self, job: NewJob) -> str:
        level = self._levels.setdefault(job.queue, _Level())
        is_known = time.monotonic() < level.look_at
        if is_known and level.full:
            return _FULL
        was_left_alone = self.breaker.is_open
        try:
            with self.breaker.attempt(RedisError, OSError):
                if is_known and self._answers:
                    # One command on an open connection, which has a time-out of its own.
                    await self.add(job)
                    return _ADDED
                taken = await self._in_time(self._add_unless_full(job))
        except BreakerOpen:
            return _RESTING
        except (RedisError, OSError) as error:
            self._answers = False
            log.warning(
                "job left to the reconciler",
                job_id=job.job_id,
                reason=type(error).__name__,
                others_too=self.breaker.is_open,
            )
            return _FAILED
        self._answers = True
        if was_left_alone:
            log.info("Redis takes jobs again")
        return _ADDED if taken else _FULL

    async def _add_unless_full(self, job: NewJob) -> bool:
        if await self._is_full(job.queue):
            return False
        await self.add(job)
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
        chunks = _in_chunks(jobs)
        replies = await asyncio.gather(
            *(self._states(keys=[f"{self._prefix}:{queue}:"], args=ids) for queue, ids in chunks)
        )
        found = {
            (queue, job_id): _STATES[place]
            for (queue, ids), places in zip(chunks, replies, strict=True)
            for job_id, place in zip(ids, places, strict=True)
        }
        return [found[job.queue, job.job_id] for job in jobs]

    async def remove(self, job: NewJob) -> bool:
        """Remove a job, wherever it waits or is kept; False if a worker holds it."""
        return bool(await self.queue(job.queue).remove(job.job_id))

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
        """Put a job scheduler (back) in place; return whether it was missing or different.

        One is different, too, whose next job was put far away by a clock that was wrong.
        """
        bull_queue = self.queue(queue)
        schedules = f"{self._key(queue)}:repeat"
        # Not getJobScheduler: it raises where there is none.
        current, next_ms, (now_s, _) = await asyncio.gather(
            self._client.hget(f"{schedules}:{schedule.job_name}", "every"),
            self._client.zscore(schedules, schedule.job_name),
            self._client.time(),
        )
        astray = (next_ms or 0) > now_s * 1_000 + schedule.every_ms + _ASTRAY_MS
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

    async def tell_of_outage(self, breaker: str, outage: Outage | None) -> None:
        """Show that this process's breaker is open, or with None that it is closed.

        It is shown until then, or until nothing was heard of it for a while; processes share the
        place. While Redis is away nothing is shown.
        """
        key = outage_key(self._prefix, breaker)
        try:
            if outage is None:
                await self._client.delete(key)
            else:
                rest = outage.until - datetime.now(UTC)
                await self._client.set(key, outage.to_json(), px=rest + _OUTAGE_SHOWN)
        except (RedisError, OSError) as error:
            log.debug("outage not shown", breaker=breaker, reason=type(error).__name__)

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


#: What becomes of an offer.
_ADDED, _FULL, _RESTING, _FAILED = "added", "full", "resting", "failed"

#: How old may be what is known of a queue's depth.
_LEVEL_AGE_S = 0.1
#: One failure may be a connection that was lost; so many in a row are a Redis that is away.
_FAILED_OFFERS = 3
_OFFERS_REST_S = 1.0
#: What is tried in vain after a rest takes its time, too.
_OUTAGE_SHOWN = timedelta(seconds=15)
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

_STATES = {state.value: state for state in JobState}

#: Further away than any delay of ours, in milliseconds: BullMQ's delays are by the clock of the
#: process that makes them, and this one was wrong. Clocks may differ by less.
_ASTRAY_MS = 300_000

#: One script, so that a job that moves while it is looked for is in one place or the other. Ours
#: have a priority, so they wait in a set; the lists are searched from end to end, and only for
#: those that are in no set.
_STATES_SCRIPT = f"""
local prefix = KEYS[1]
-- A delay's score is its end in milliseconds times 4096, and a counter.
local astray = (redis.call("TIME")[1] * 1000 + {_ASTRAY_MS}) * 4096
local function set(name, id) return redis.call("ZSCORE", prefix .. name, id) end
local function list(name, id) return redis.call("LPOS", prefix .. name, id) end
local function state(id)
  if redis.call("EXISTS", prefix .. id) == 0 then return "missing" end
  if set("prioritized", id) then return "live" end
  if redis.call("EXISTS", prefix .. id .. ":lock") == 1 then return "active" end
  if set("completed", id) then return "completed" end
  if set("failed", id) then
    local reason = redis.call("HGET", prefix .. id, "failedReason") or ""
    return string.find(reason, "{PUT_ASIDE}", 1, true) == 1 and "put aside" or "failed"
  end
  local due = set("delayed", id)
  if due then return tonumber(due) > astray and "astray" or "live" end
  if set("waiting-children", id) then return "live" end
  if list("active", id) then return "active" end
  if list("wait", id) or list("paused", id) then return "live" end
  return "lost"
end
local states = {{}}
for n, id in ipairs(ARGV) do states[n] = state(id) end
return states
"""
#: Redis does nothing else meanwhile.
_LOOKED_AT_ONCE = 128


def _in_chunks(jobs: Sequence[NewJob]) -> list[tuple[str, list[str]]]:
    """Return the ids by queue, a few at a time."""
    by_queue: dict[str, list[str]] = {}
    for job in jobs:
        by_queue.setdefault(job.queue, []).append(job.job_id)
    return [
        (queue, ids[start : start + _LOOKED_AT_ONCE])
        for queue, ids in by_queue.items()
        for start in range(0, len(ids), _LOOKED_AT_ONCE)
    ]


@asynccontextmanager
async def open_queues(
    settings: Settings, kind: type[JobQueues] = JobQueues
) -> AsyncIterator[JobQueues]:
    """Give the queues of the Redis in `settings`, closed on leaving; Redis may be away."""
    client = connect_producer(
        settings.redis_servers, settings.redis_timeout_ms, settings.queue_prefix
    )
    queues = kind(
        client,
        settings.queue_prefix,
        settings.priorities,
        settings.queue_depth_limit,
        settings.redis_timeout_ms / 1000,
    )
    try:
        with breaker_shown("redis", queues.breaker):
            yield queues
    finally:
        await queues.changes.close()
        await client.aclose()
