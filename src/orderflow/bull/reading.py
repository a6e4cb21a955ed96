"""What lies in Redis about queues and their jobs, read without a look at all of it.

A page of a list costs what the page costs, however many jobs wait: windows of lists and sorted
sets, never a scan.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from bullmq.job import optsFromJSON
from redis.exceptions import ResponseError

from orderflow.bull.queues import JobQueues


class JobPlace(StrEnum):
    """BullMQ's states. A job that waits with a priority waits, too, in a set of its own."""

    WAITING = "waiting"
    ACTIVE = "active"
    DELAYED = "delayed"
    FAILED = "failed"
    COMPLETED = "completed"
    PAUSED = "paused"  # put aside by the pause of a 5.x client, in a list of their own
    WAITING_CHILDREN = "waiting-children"


#: The place of a job whose hash is there, but which is in no list.
LOST = "lost"


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

#: From either end of a list so many are searched for one job: Redis does nothing else meanwhile.
_SEARCHED = 10_000


async def queue_exists(queues: JobQueues, name: str) -> bool:
    """Say whether anybody ever added a job to this queue, or worked on it."""
    if name and await _redis(queues, name).exists(queues.names.key(name, "meta")):
        return True
    # Or every name that is mistyped would keep a connection to a cluster.
    await queues.let_go(name)
    return False


async def read_queue(queues: JobQueues, name: str) -> StoredQueue:
    """Read how a queue is. Raises redis.RedisError."""
    redis = _redis(queues, name)
    (
        counts,
        meta,
        limited_ms,
        (seconds, micros),
        (completed, failed),
        oldest_ms,
    ) = await asyncio.gather(
        _sizes(queues, name),
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

    Those that wait, are delayed or run come in the order of their turn, ended ones newest first.
    Neither stack nor return value is read. Raises redis.RedisError.
    """
    sizes, ids = await asyncio.gather(
        _sizes(queues, queue), _ids(queues, queue, place, start, limit)
    )
    jobs = await asyncio.gather(*(_read(queues, queue, job_id, _LISTED) for job_id in ids))
    return sizes[place], [job for job in jobs if job is not None]


async def read_job(queues: JobQueues, queue: str, job_id: str) -> StoredJob | None:
    """Return the whole job, or None if there is none of this id. Raises redis.RedisError."""
    return await _read(queues, queue, job_id, _WHOLE)


async def read_logs(queues: JobQueues, queue: str, job_id: str, newest: int) -> list[str]:
    """Return the last `newest` lines that the job's handler logged, in their order."""
    key = queues.names.key(queue, f"{job_id}:logs")
    lines = await _redis(queues, queue).lrange(key, -newest, -1)
    return [str(line) for line in lines]


async def lock_ms(queues: JobQueues, queue: str, job_id: str) -> int | None:
    """Return how long the lock of the worker that runs the job lasts; None if nobody has one."""
    left = int(await _redis(queues, queue).pttl(queues.names.key(queue, f"{job_id}:lock")))
    return left if left >= 0 else None


async def place_of(queues: JobQueues, queue: str, job_id: str) -> str | None:
    """Return the job's JobPlace, LOST, or None if there is no job of this id.

    A list is searched from both ends and not through: what is then found nowhere waits in the
    middle of one that is longer.
    """
    redis = _redis(queues, queue)

    def score(name: str) -> Any:
        return redis.zscore(queues.names.key(queue, name), job_id)

    def near_end(name: str, rank: int) -> Any:
        return redis.lpos(queues.names.key(queue, name), job_id, rank=rank, maxlen=_SEARCHED)

    exists, *found = await asyncio.gather(
        redis.exists(queues.names.key(queue, job_id)),
        *(score(name) for name in _SETS),
        *(near_end(name, rank) for name in _LISTS for rank in (1, -1)),
    )
    if not exists:
        return None
    places = [*_SETS.values(), *(place for place in _LISTS.values() for _ in range(2))]
    for place, position in zip(places, found, strict=True):
        if position is not None:
            return place
    sizes = await _sizes(queues, queue)
    for place in (JobPlace.WAITING, JobPlace.PAUSED):
        if sizes[place] > 2 * _SEARCHED:
            return place
    return LOST


async def failed_among(queues: JobQueues, queue: str, job_ids: Sequence[str]) -> set[str]:
    """Return those of the jobs that are failed, at the cost of one command."""
    if not job_ids:
        return set()
    scores = await _redis(queues, queue).zmscore(queues.names.key(queue, "failed"), list(job_ids))
    return {job_id for job_id, score in zip(job_ids, scores, strict=True) if score is not None}


_SETS = {
    "completed": JobPlace.COMPLETED,
    "failed": JobPlace.FAILED,
    "delayed": JobPlace.DELAYED,
    "prioritized": JobPlace.WAITING,
    "waiting-children": JobPlace.WAITING_CHILDREN,
}
_LISTS = {
    "active": JobPlace.ACTIVE,
    "wait": JobPlace.WAITING,
    "paused": JobPlace.PAUSED,
}


def _redis(queues: JobQueues, queue: str) -> Any:
    """Return the connection. Its replies are text, which redis-py's types do not say."""
    return queues.client_of(queue)


async def _sizes(queues: JobQueues, queue: str) -> dict[JobPlace, int]:
    redis = _redis(queues, queue)
    sizes = await asyncio.gather(
        *(redis.zcard(queues.names.key(queue, name)) for name in _SETS),
        *(redis.llen(queues.names.key(queue, name)) for name in _LISTS),
    )
    counts = dict.fromkeys(JobPlace, 0)
    for place, size in zip((*_SETS.values(), *_LISTS.values()), sizes, strict=True):
        counts[place] += int(size)
    return counts


async def _ids(queues: JobQueues, queue: str, place: JobPlace, start: int, limit: int) -> list[str]:
    redis, end = _redis(queues, queue), start + limit - 1
    match place:
        case JobPlace.WAITING:
            return await _waiting_ids(queues, queue, start, limit)
        case JobPlace.ACTIVE | JobPlace.PAUSED:
            return await _from_the_end(redis, queues.names.key(queue, place), start, limit)
        case JobPlace.COMPLETED | JobPlace.FAILED:
            ids = await redis.zrange(queues.names.key(queue, place), start, end, desc=True)
        case _:
            ids = await redis.zrange(queues.names.key(queue, place), start, end)
    return cast(list[str], ids)


async def _waiting_ids(queues: JobQueues, queue: str, start: int, limit: int) -> list[str]:
    """Return those without a priority, which are taken first, and then those with one."""
    redis, wait = _redis(queues, queue), queues.names.key(queue, "wait")
    plain = int(await redis.llen(wait))
    ids = await _from_the_end(redis, wait, start, limit) if start < plain else []
    if len(ids) < limit:
        first = max(0, start - plain)
        last = first + limit - len(ids) - 1
        ids += await redis.zrange(queues.names.key(queue, "prioritized"), first, last)
    return ids


async def _from_the_end(redis: Any, key: str, start: int, limit: int) -> list[str]:
    """Return a window of a list that workers take from its end."""
    ids = cast(list[str], await redis.lrange(key, -(start + limit), -(start + 1)))
    # Old clients put a marker there that is no job.
    return [job_id for job_id in reversed(ids) if not job_id.startswith("0:")]


async def _pace(queues: JobQueues, queue: str, ended: str) -> Pace:
    key = queues.names.key(queue, f"metrics:{ended}")
    (count, before, since), minutes = await asyncio.gather(
        _redis(queues, queue).hmget(key, ["count", "prevCount", "prevTS"]),
        _redis(queues, queue).lrange(f"{key}:data", 0, MINUTES - 1),
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
    redis = _redis(queues, queue)
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
        values = await _redis(queues, queue).hmget(queues.names.key(queue, job_id), list(parts))
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
