"""Queues: how each is, and what can be done to all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from orderflow.bull import steering
from orderflow.bull.fleet import ConnectedWorker, connected_workers, queues_of
from orderflow.bull.places import JobPlace
from orderflow.bull.queues import JobQueues
from orderflow.bull.reading import MINUTES, Pace, StoredQueue, queue_exists, read_queue
from orderflow.db import Database
from orderflow.errors import UnknownJobState, UnknownQueue, WrongJobState
from orderflow.operations.audit import Actor, Note, audited

_MINUTE_MS = 60_000

#: Says how many jobs were removed so far.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many jobs may start in so many milliseconds, over all workers of a queue."""

    max: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """How a queue is at this moment.

    `counts` is by BullMQ's states, where `waiting` includes those with a priority. `oldest_s` is
    how long the oldest of those that are next has waited since it was added; None where none
    waits. `completed` and `failed` count since the first worker that keeps BullMQ's metrics, as
    ours do; the rates are jobs a minute, of the last whole minutes. `limited_ms` is for how long
    a rate limit holds all jobs back. The limits are BullMQ's own, and None where there is none.
    """

    name: str
    counts: Mapping[str, int]
    paused: bool
    oldest_s: float | None
    completed: int
    failed: int
    completed_per_minute: float
    failed_per_minute: float
    concurrency: int | None
    rate_limit: RateLimit | None
    limited_ms: int
    workers: int


@dataclass(frozen=True, slots=True)
class Removed:
    """How many jobs were removed, and how many are left that could be."""

    removed: int
    left: int


async def known_queues(queues: JobQueues) -> list[str]:
    """Return the queues of the contract, and every other that someone works on just now."""
    return _known(queues, await connected_workers(queues))


async def check_queue(name: str, *, queues: JobQueues) -> None:
    """Return if there is such a queue, worked on or not. Raises UnknownQueue."""
    if name in queues.names.all() or await queue_exists(queues, name):
        return
    known = await known_queues(queues)
    if name not in known:
        raise UnknownQueue(queue=name, known=known)


def read_state(state: str) -> JobPlace:
    """Return the state of this name. Raises UnknownJobState."""
    try:
        return JobPlace(state)
    except ValueError:
        known = [place.value for place in JobPlace]
        raise UnknownJobState(state=state, known=known) from None


async def list_queues(*, queues: JobQueues) -> list[QueueSummary]:
    """Return how each of the known queues is."""
    workers = await connected_workers(queues)
    names = _known(queues, workers)
    read = await asyncio.gather(*(read_queue(queues, name) for name in names))
    return [_summary(found, workers) for found in read]


async def get_queue(name: str, *, queues: JobQueues) -> QueueSummary:
    """Return how a queue is. Raises UnknownQueue."""
    await check_queue(name, queues=queues)
    found, workers = await asyncio.gather(read_queue(queues, name), connected_workers(queues))
    return _summary(found, workers)


async def pause_queue(name: str, actor: Actor, *, db: Database, queues: JobQueues) -> QueueSummary:
    """Let no job of the queue be started any more, by any worker; those that run go on.

    Raises UnknownQueue.
    """
    await check_queue(name, queues=queues)
    async with audited(actor, "pause", name, db=db):
        await steering.pause(queues, name)
    return await get_queue(name, queues=queues)


async def resume_queue(name: str, actor: Actor, *, db: Database, queues: JobQueues) -> QueueSummary:
    """Let jobs of the queue be started again. Raises UnknownQueue."""
    await check_queue(name, queues=queues)
    async with audited(actor, "resume", name, db=db):
        await steering.resume(queues, name)
    return await get_queue(name, queues=queues)


async def set_concurrency(
    name: str, most: int | None, actor: Actor, *, db: Database, queues: JobQueues
) -> QueueSummary:
    """Let at most so many jobs of the queue run at once over all workers; None: no such limit.

    Raises UnknownQueue.
    """
    await check_queue(name, queues=queues)
    async with audited(actor, "set concurrency", name, db=db, details={"concurrency": most}):
        await steering.set_concurrency(queues, name, most)
    return await get_queue(name, queues=queues)


async def set_rate_limit(
    name: str, limit: RateLimit | None, actor: Actor, *, db: Database, queues: JobQueues
) -> QueueSummary:
    """Let at most `limit` jobs of the queue start over all workers; None: no such limit.

    A worker with a limit of its own, as by RATE_LIMITS, takes the number from here, and its own
    duration. Raises UnknownQueue.
    """
    await check_queue(name, queues=queues)
    asked = {"max": limit.max, "durationMs": limit.duration_ms} if limit else None
    async with audited(actor, "set rate limit", name, db=db, details={"rateLimit": asked}):
        pair = (limit.max, limit.duration_ms) if limit else None
        await steering.set_rate_limit(queues, name, pair)
    return await get_queue(name, queues=queues)


async def drain_queue(
    name: str,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    delayed: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Removed:
    """Remove the jobs that wait, and with `delayed` those that are, `limit` at most.

    Those that run and those that ended stay. The reconciler adds again what an open order needs.
    Raises UnknownQueue.
    """
    await check_queue(name, queues=queues)
    async with audited(actor, "drain", name, db=db, details={"delayed": delayed}) as note:
        await _in_steps(
            lambda most: steering.drain_step(queues, name, delayed=delayed, most=most),
            note,
            limit,
            progress,
        )
        counts = (await read_queue(queues, name)).counts
        left = counts[JobPlace.WAITING] + counts[JobPlace.PAUSED]
        left += counts[JobPlace.DELAYED] if delayed else 0
    return Removed(note.details["removed"], left)


async def clean_queue(
    name: str,
    state: str,
    older_than_s: float,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Removed:
    """Remove the jobs that failed or completed so long ago or longer, `limit` at most.

    What the failures tell of them stays. `left` is how many are in that state in all.
    Raises UnknownQueue, UnknownJobState, or WrongJobState for any other state.
    """
    await check_queue(name, queues=queues)
    place = read_state(state)
    if place not in (JobPlace.FAILED, JobPlace.COMPLETED):
        raise WrongJobState(state=state, action="removed", known=["failed", "completed"])
    older_than_ms = round(older_than_s * 1000)
    asked = {"state": state, "olderThanS": older_than_s}
    async with audited(actor, "clean", name, db=db, details=asked) as note:
        await _in_steps(
            lambda most: steering.clean_step(queues, name, place, older_than_ms, most),
            note,
            limit,
            progress,
        )
        left = (await read_queue(queues, name)).counts[place]
    return Removed(note.details["removed"], left)


async def _in_steps(
    step: Callable[[int], Awaitable[int]],
    note: Note,
    limit: int | None,
    progress: Progress | None,
) -> None:
    """Repeat `step` until nothing is left or `limit` is reached; the note has the sum so far."""
    note.details["removed"] = 0
    while limit is None or note.details["removed"] < limit:
        most = steering.STEP if limit is None else limit - note.details["removed"]
        removed = await step(most)
        if removed == 0:
            return
        note.details["removed"] += removed
        if progress is not None:
            progress(note.details["removed"])


def _known(queues: JobQueues, workers: Sequence[ConnectedWorker]) -> list[str]:
    contract = queues.names.all()
    return [*contract, *(name for name in queues_of(workers) if name not in contract)]


def _summary(queue: StoredQueue, workers: Sequence[ConnectedWorker]) -> QueueSummary:
    oldest_s = None
    if queue.oldest_ms is not None:
        oldest_s = max(0, queue.now_ms - queue.oldest_ms) / 1000
    return QueueSummary(
        name=queue.name,
        counts={place.value: count for place, count in queue.counts.items()},
        paused=queue.paused,
        oldest_s=oldest_s,
        completed=queue.completed.total,
        failed=queue.failed.total,
        completed_per_minute=_per_minute(queue.completed, queue.now_ms),
        failed_per_minute=_per_minute(queue.failed, queue.now_ms),
        concurrency=queue.concurrency,
        rate_limit=RateLimit(*queue.rate_limit) if queue.rate_limit else None,
        limited_ms=queue.limited_ms,
        workers=sum(worker.queue == queue.name for worker in workers),
    )


def _per_minute(pace: Pace, now_ms: int) -> float:
    """Return the mean of the last whole minutes.

    BullMQ writes a minute down with the first job after it: a queue at rest has old ones.
    """
    if pace.since_ms is None:
        return 0.0
    at_rest = now_ms // _MINUTE_MS - pace.since_ms // _MINUTE_MS
    unwritten = [*[0] * min(at_rest - 1, MINUTES), pace.current] if at_rest > 0 else []
    minutes = [*unwritten, *pace.minutes][:MINUTES]
    return sum(minutes) / len(minutes) if minutes else 0.0
