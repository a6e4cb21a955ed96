"""What an operator does to queues and jobs, by BullMQ's own scripts and keys: Node honours it all.

Where BullMQ would do a thing to millions of jobs in one call, and Redis nothing else for as long,
it is done in steps that the caller repeats. Every function raises redis.RedisError.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from bullmq.redis_connection import loadScript
from redis.exceptions import WatchError

from orderflow.bull.places import LOST, JobPlace, place_of
from orderflow.bull.queues import JobQueues
from orderflow.bull.reading import read_job
from orderflow.bull.scripts import to_json
from orderflow.errors import JobIsRunning, JobNotFound, JobNotInState, JobOfSchedule

#: Jobs that are removed in one call; more would hold up those who wait for Redis.
STEP = 500

_ENDED = (JobPlace.FAILED, JobPlace.COMPLETED)

# BullMQ's answers.
_LOCKED, _OF_A_SCHEDULE = 0, -8

_SET_DATA = """
if not redis.call("ZSCORE", KEYS[2], ARGV[1]) then return -3 end
return redis.call("HSET", KEYS[1], "data", ARGV[2])
"""


async def pause(queues: JobQueues, queue: str) -> None:
    """Let no job be started any more; those that run go on."""
    await queues.queue(queue).pause()


async def resume(queues: JobQueues, queue: str) -> None:
    """Let jobs be started again."""
    await queues.queue(queue).resume()


async def set_concurrency(queues: JobQueues, queue: str, most: int | None) -> None:
    """Let at most so many jobs run at once over all workers; None takes the limit off."""
    if most is None:
        await queues.queue(queue).removeGlobalConcurrency()
    else:
        await queues.queue(queue).setGlobalConcurrency(most)


async def set_rate_limit(queues: JobQueues, queue: str, limit: tuple[int, int] | None) -> None:
    """Let at most so many jobs start in so many ms over all workers; None takes the limit off.

    What has been used up of a limit before is forgotten.
    """
    bull = queues.queue(queue)
    if limit is None:
        await bull.removeGlobalRateLimit()
    else:
        await bull.setGlobalRateLimit(*limit)
    await bull.removeRateLimitKey()


async def drain_step(queues: JobQueues, queue: str, *, delayed: bool, most: int = STEP) -> int:
    """Remove some of the jobs that wait, and with `delayed` of those too; return how many.

    0 means that none is left. The next job of a schedule stays.
    """
    waiting = ("prioritized", "wait", "paused")
    for place in (*waiting, "delayed") if delayed else waiting:
        removed = await queues.queue(queue).clean(0, min(most, STEP), place)
        if removed:
            return len(removed)
    return 0


async def clean_step(
    queues: JobQueues, queue: str, place: JobPlace, older_than_ms: int, most: int = STEP
) -> int:
    """Remove some of the jobs that ended in this way, so long ago or longer; return how many.

    0 means that none is left.
    """
    return len(await queues.queue(queue).clean(older_than_ms, min(most, STEP), place.value))


async def retry(
    queues: JobQueues, queue: str, job_id: str, place: JobPlace, data: Any = None
) -> bool:
    """Run a job that ended as `place` says again, its attempts counted anew.

    With `data`, with these instead of its own. False if it is not there any more: then nothing
    has changed.
    """
    scripts, redis = queues.queue(queue).scripts, queues.client_of(queue)
    key, ended = scripts.toKey(job_id), scripts.toKey(place.value)
    lifo = '"lifo":true' in (await redis.hget(key, "opts") or "")
    keys = [key, scripts.keys["events"], ended]
    keys += scripts.getKeys(["wait", "meta", "active", "marker", "prioritized", "pc"])
    outcome = "failedReason" if place is JobPlace.FAILED else "returnvalue"
    args = [job_id, "RPUSH" if lifo else "LPUSH", outcome, place.value, "1", "1"]
    # Both or neither, and nothing in between.
    async with redis.pipeline(transaction=True) as both:
        if data is not None:
            set_data = redis.register_script(_SET_DATA)
            await set_data(keys=[key, ended], args=[job_id, to_json(data)], client=both)
        await scripts.commands["reprocessJob"](keys=keys, args=args, client=both)
        replies = await both.execute()
    return bool(replies[-1] == 1)


async def promote(queues: JobQueues, queue: str, job_id: str) -> None:
    """Let a delayed job wait for its turn now. Raises JobNotFound or JobNotInState."""
    try:
        await queues.queue(queue).backend.promote(job_id)
    except TypeError:
        # BullMQ's type for every answer of its scripts.
        raise await refusal(queues, queue, job_id, "delayed", "promoted") from None


async def remove(queues: JobQueues, queue: str, job_id: str) -> None:
    """Remove a job, wherever it is. Raises JobNotFound, JobIsRunning or JobOfSchedule."""
    if await read_job(queues, queue, job_id) is None:
        # Not left to BullMQ, which would remove any key of its own by the name of a job.
        raise JobNotFound(queue=queue, job_id=job_id)
    answer = await queues.queue(queue).remove(job_id)
    if answer == _LOCKED:
        raise JobIsRunning(job_id=job_id, action="removed")
    if answer == _OF_A_SCHEDULE:
        raise JobOfSchedule(job_id=job_id)


async def drop_told(
    queues: JobQueues, queue: str, job_ids: Collection[str], recognised: re.Pattern[str]
) -> int:
    """Remove what a queue's stream of events tells of these jobs, or of what is recognised.

    The stream holds the last ten thousand or so: it is read through. Return how many were removed.
    """
    key, dropped, after = queues.names.key(queue, "events"), 0, "-"
    redis: Any = queues.client_of(queue)
    while told := await redis.xrange(key, after, count=STEP):
        ids = [
            event_id
            for event_id, fields in told
            if fields.get("jobId") in job_ids or any(map(recognised.search, fields.values()))
        ]
        if ids:
            dropped += int(await redis.xdel(key, *ids))
        after = f"({told[-1][0]}"
    return dropped


async def take_back(queues: JobQueues, queue: str, job_id: str) -> None:
    """Put a job whose worker has died in front of all that wait; its attempts are as they were.

    Raises JobNotFound, JobNotInState, or JobIsRunning if a worker has its lock.
    """
    scripts, redis = queues.queue(queue).scripts, queues.client_of(queue)
    key = scripts.toKey(job_id)
    names = ("active", "wait", "stalled", "paused", "meta", "limiter", "prioritized", "marker")
    if await place_of(queues, queue, job_id) is not JobPlace.ACTIVE:
        raise await refusal(queues, queue, job_id, "active", "taken back")
    async with redis.pipeline(transaction=True) as move:
        # A worker that takes the job meanwhile gives it a lock: then nothing is moved.
        await move.watch(f"{key}:lock")
        if await move.exists(f"{key}:lock"):
            raise JobIsRunning(job_id=job_id, action="taken back")
        move.multi()  # type: ignore[no-untyped-call]
        # BullMQ brings it for Node's rate limit, and its Python client does not call it.
        to_wait = redis.register_script(loadScript("moveJobFromActiveToWait-9.lua"))
        keys = scripts.getKeys([*names, "events"])
        await to_wait(keys=keys, args=[job_id, "0", key], client=move)
        try:
            await move.execute()
        except WatchError:
            raise JobIsRunning(job_id=job_id, action="taken back") from None


async def refusal(
    queues: JobQueues, queue: str, job_id: str, needed: str, action: str
) -> JobNotFound | JobIsRunning | JobNotInState:
    """Return the error that says why this cannot be done to the job where it is now."""
    place = await place_of(queues, queue, job_id)
    if place is None:
        return JobNotFound(queue=queue, job_id=job_id)
    if place == JobPlace.ACTIVE:
        return JobIsRunning(job_id=job_id, action=action)
    state = "in no list" if place == LOST else str(place)
    return JobNotInState(job_id=job_id, state=state, needed=needed, action=action)
