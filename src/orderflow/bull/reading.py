"""What Redis has about queues and jobs, read: how a queue is, a page of jobs, one job in full."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bullmq.job import optsFromJSON
from redis.exceptions import ResponseError

from orderflow.bull.places import JobPlace, ids_in, redis_of, sizes_of
from orderflow.bull.queues import JobQueues


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as its hash says it is. Times are Unix milliseconds; data may hold anything."""

    queue: str
    job_id: str
    name: str
    data: Any
    opts: Mapping[str, Any]
    priority: int
    delay_ms: int
    attempts_made: int
    attempts_started: int
    stalled: int
    added_ms: int | None
    processed_ms: int | None
    finished_ms: int | None
    failed_reason: str | None
    stack: Sequence[str]
    return_value: Any
    progress: Any
    worker: str | None
    parent_key: str | None
    scheduler: str | None

    @property
    def max_attempts(self) -> int:
        """How many attempts it has; one where its options say nothing that can be meant."""
        attempts = self.opts.get("attempts")
        return attempts if isinstance(attempts, int) and attempts > 0 else 1


@dataclass(frozen=True, slots=True)
class Pace:
    """BullMQ's own counters of jobs that ended in one way: in all, and by the minute.

    `current` is of the minute in which `since_ms` (Unix) is, and `minutes` are those before it,
    the newest first.
    """

    total: int
    current: int
    minutes: Sequence[int]
    since_ms: int | None


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """A queue as Redis has it."""

    name: str
    counts: Mapping[JobPlace, int]
    paused: bool
    concurrency: int | None
    rate_limit: tuple[int, int] | None  # so many jobs in so many milliseconds
    limited_ms: int
    oldest_ms: int | None
    now_ms: int
    completed: Pace
    failed: Pace


#: How many whole minutes of the counters are read.
MINUTES = 5

# The parts that a page shows, and those that only a single job's view does.
_LISTED = (
    *("name", "data", "opts", "priority", "delay", "atm", "attemptsMade", "ats", "stc"),
    *("timestamp", "processedOn", "finishedOn", "failedReason", "pb", "parentKey", "rjk"),
)
_WHOLE = (*_LISTED, "stacktrace", "returnvalue", "progress")


async def queue_exists(queues: JobQueues, name: str) -> bool:
    """Say whether anybody ever added a job to this queue, or worked on it."""
    if name and await redis_of(queues, name).exists(queues.names.key(name, "meta")):
        return True
    # Or every name that is mistyped would keep a connection to a cluster.
    await queues.let_go(name)
    return False


async def read_queue(queues: JobQueues, name: str) -> StoredQueue:
    """Read how a queue is. Raises redis.RedisError."""
    redis = redis_of(queues, name)
    (
        counts,
        meta,
        limited_ms,
        (seconds, micros),
        (completed, failed),
        oldest_ms,
    ) = await asyncio.gather(
        sizes_of(queues, name),
        redis.hmget(queues.names.key(name, "meta"), ["paused", "concurrency", "max", "duration"]),
        queues.queue(name).getRateLimitTtl(),
        redis.time(),
        asyncio.gather(_pace(queues, name, "completed"), _pace(queues, name, "failed")),
        _oldest_ms(queues, name),
    )
    most, duration = _whole(meta[2]), _whole(meta[3])
    return StoredQueue(
        name=name,
        counts=counts,
        paused=meta[0] is not None,
        concurrency=_whole(meta[1]),
        rate_limit=(most, duration) if most and duration else None,
        limited_ms=max(0, int(limited_ms)),
        oldest_ms=oldest_ms,
        now_ms=int(seconds) * 1000 + int(micros) // 1000,
        completed=completed,
        failed=failed,
    )


async def read_page(
    queues: JobQueues, queue: str, place: JobPlace, start: int, limit: int
) -> tuple[int, list[StoredJob]]:
    """Return how many jobs are in that place, and those from `start` on, `limit` at most.

    In the order of `ids_in`; neither stack nor return value is read. Raises redis.RedisError.
    """
    sizes, ids = await asyncio.gather(
        sizes_of(queues, queue), ids_in(queues, queue, place, start, limit)
    )
    jobs = await asyncio.gather(*(_read(queues, queue, job_id, _LISTED) for job_id in ids))
    return sizes[place], [job for job in jobs if job is not None]


async def read_job(queues: JobQueues, queue: str, job_id: str) -> StoredJob | None:
    """Return the whole job, or None if there is none of this id. Raises redis.RedisError."""
    return await _read(queues, queue, job_id, _WHOLE)


async def read_logs(queues: JobQueues, queue: str, job_id: str, newest: int) -> list[str]:
    """Return the last `newest` lines that the job's handler logged, in their order."""
    key = queues.names.key(queue, f"{job_id}:logs")
    lines = await redis_of(queues, queue).lrange(key, -newest, -1)
    return [str(line) for line in lines]


async def lock_ms(queues: JobQueues, queue: str, job_id: str) -> int | None:
    """Return how long the lock of the worker that runs the job lasts; None if nobody has one."""
    left = int(await redis_of(queues, queue).pttl(queues.names.key(queue, f"{job_id}:lock")))
    return left if left >= 0 else None


async def _pace(queues: JobQueues, queue: str, ended: str) -> Pace:
    key = queues.names.key(queue, f"metrics:{ended}")
    (count, before, since), minutes = await asyncio.gather(
        redis_of(queues, queue).hmget(key, ["count", "prevCount", "prevTS"]),
        redis_of(queues, queue).lrange(f"{key}:data", 0, MINUTES - 1),
    )
    total = _whole(count) or 0
    return Pace(
        total=total,
        current=total - (_whole(before) or 0),
        minutes=[_whole(minute) or 0 for minute in minutes],
        since_ms=_whole(since),
    )


async def _oldest_ms(queues: JobQueues, queue: str) -> int | None:
    """Return when the oldest of those was added that are next in their line."""
    redis = redis_of(queues, queue)
    last, numbers = await asyncio.gather(
        redis.lindex(queues.names.key(queue, "wait"), -1), queues.priorities_in_use(queue)
    )
    heads = await asyncio.gather(
        *(
            redis.zrange(
                queues.names.key(queue, "prioritized"),
                number * 2**32,
                "+inf",
                byscore=True,
                offset=0,
                num=1,
            )
            for number in numbers
        )
    )
    ids = [job_id for found in heads for job_id in found] + ([last] if last else [])
    added = await asyncio.gather(
        *(redis.hget(queues.names.key(queue, job_id), "timestamp") for job_id in ids)
    )
    return min((moment for moment in map(_whole, added) if moment is not None), default=None)


async def _read(
    queues: JobQueues, queue: str, job_id: str, parts: Sequence[str]
) -> StoredJob | None:
    try:
        values = await redis_of(queues, queue).hmget(queues.names.key(queue, job_id), list(parts))
    except ResponseError:
        return None  # a key of BullMQ's own, which is no hash
    fields = {part: value for part, value in zip(parts, values, strict=True) if value is not None}
    # Every job has one; the hash of a schedule, say, has none.
    return _stored(queue, job_id, fields) if "timestamp" in fields else None


def _stored(queue: str, job_id: str, fields: Mapping[str, str]) -> StoredJob:
    opts = _json(fields.get("opts", "{}"))
    stack = _json(fields.get("stacktrace", "[]"))
    return StoredJob(
        queue=queue,
        job_id=job_id,
        name=fields.get("name", ""),
        data=_json(fields.get("data", "null")),
        opts=optsFromJSON(opts) if isinstance(opts, dict) else {},
        priority=_whole(fields.get("priority")) or 0,
        delay_ms=_whole(fields.get("delay")) or 0,
        attempts_made=_whole(fields.get("atm") or fields.get("attemptsMade")) or 0,
        attempts_started=_whole(fields.get("ats")) or 0,
        stalled=_whole(fields.get("stc")) or 0,
        added_ms=_whole(fields.get("timestamp")),
        processed_ms=_whole(fields.get("processedOn")),
        finished_ms=_whole(fields.get("finishedOn")),
        failed_reason=fields.get("failedReason"),
        stack=[str(entry) for entry in stack] if isinstance(stack, list) else [],
        return_value=_json(fields.get("returnvalue", "null")),
        progress=_json(fields.get("progress", "null")),
        worker=fields.get("pb"),
        parent_key=fields.get("parentKey"),
        scheduler=fields.get("rjk"),
    )


def _json(text: str) -> Any:
    """Read JSON; what is none, as a stranger may write it, stays text."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def _whole(text: Any) -> int | None:
    try:
        return int(float(text))
    except (TypeError, ValueError, OverflowError):
        return None
