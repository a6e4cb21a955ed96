"""Where jobs are: the lists and sorted sets of a queue.

A window of them costs what the window costs, however many jobs wait: nothing is scanned. Every
function raises redis.RedisError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, cast

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

#: From either end of a list so many are searched for one job: Redis does nothing else meanwhile.
_SEARCHED = 10_000

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


async def place_of(queues: JobQueues, queue: str, job_id: str) -> str | None:
    """Return the job's JobPlace, LOST, or None if there is no job of this id.

    A list is searched from both ends and not through: what is then found nowhere waits in the
    middle of one that is longer.
    """
    redis = redis_of(queues, queue)

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
    sizes = await sizes_of(queues, queue)
    for place in (JobPlace.WAITING, JobPlace.PAUSED):
        if sizes[place] > 2 * _SEARCHED:
            return place
    return LOST


async def failed_among(queues: JobQueues, queue: str, job_ids: Sequence[str]) -> set[str]:
    """Return those of the jobs that are failed, at the cost of one command."""
    if not job_ids:
        return set()
    scores = await redis_of(queues, queue).zmscore(queues.names.key(queue, "failed"), list(job_ids))
    return {job_id for job_id, score in zip(job_ids, scores, strict=True) if score is not None}


async def sizes_of(queues: JobQueues, queue: str) -> dict[JobPlace, int]:
    """Return how many jobs are in each place."""
    redis = redis_of(queues, queue)
    sizes = await asyncio.gather(
        *(redis.zcard(queues.names.key(queue, name)) for name in _SETS),
        *(redis.llen(queues.names.key(queue, name)) for name in _LISTS),
    )
    counts = dict.fromkeys(JobPlace, 0)
    for place, size in zip((*_SETS.values(), *_LISTS.values()), sizes, strict=True):
        counts[place] += int(size)
    return counts


async def ids_in(
    queues: JobQueues, queue: str, place: JobPlace, start: int, limit: int
) -> list[str]:
    """Return the ids of the jobs in a place from `start` on, `limit` at most.

    Those that wait, are delayed or run come in the order of their turn, ended ones newest first.
    """
    redis, end = redis_of(queues, queue), start + limit - 1
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
    redis, wait = redis_of(queues, queue), queues.names.key(queue, "wait")
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


def redis_of(queues: JobQueues, queue: str) -> Any:
    """Return the connection. Its replies are text, which redis-py's types do not say."""
    return queues.client_of(queue)
