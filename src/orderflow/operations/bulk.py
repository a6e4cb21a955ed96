"""A whole group of failed jobs is retried or discarded: at a rate, until its end or a stop.

The process that is asked does it. What came of it so far is in PostgreSQL, where another one sees
it and can ask it to stop. If the process dies the rest of the group stays failed, and the action
may be begun anew: only what has still failed is touched.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from orderflow.bull import steering
from orderflow.bull.places import JobPlace, failed_among, place_of
from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.errors import BulkActionEnded, BulkActionNotFound, OrderflowError
from orderflow.operations.audit import Actor, Outcome, audited
from orderflow.operations.failures import get_group
from orderflow.orders import Row

Kind = Literal["retry", "discard"]

DEFAULT_PER_SECOND = 50
MOST_PER_SECOND = 1_000

#: Jobs that are looked for at once, and refusals that are kept with their reasons.
_PAGE, _REFUSALS = 500, 20
_TELL_EVERY_S = 0.5
#: An action that told nothing for so long lost its process.
_SILENT_FOR = timedelta(seconds=30)

_AUDITED: Mapping[Kind, str] = {"retry": "retry group", "discard": "discard group"}


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a bulk action would do now: to how many, and how many it would leave, by their state.

    `examples` are ids of jobs that it would do it to.
    """

    fingerprint: str
    queue: str
    jobs: int
    would: int
    skipped: Mapping[str, int]
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job that an action was not done to, and why."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BulkAction:
    """A bulk action, under way or ended.

    `state` is running, done, partly (some jobs refused), stopped, failed (a server was away), or
    lost (its process died). `jobs` is how many the group had when it began: `done` of them it was
    done to, `skipped` had not failed any more, by what they were instead, and `refused` could not
    be, the first of which `refusals` tells.
    """

    id: UUID
    kind: Kind
    fingerprint: str
    queue: str
    user: str
    reason: str
    per_second: int
    state: str
    jobs: int
    done: int
    skipped: Mapping[str, int]
    refused: int
    refusals: Sequence[Refusal]
    stop_wanted: bool
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None


#: Is told of the progress.
Tell = Callable[[BulkAction], None]


async def try_bulk(
    fingerprint: str, *, db: Database, queues: JobQueues, examples: int = 10
) -> DryRun:
    """Say what a retry or discard of the group would do, and change nothing.

    Raises FailureGroupNotFound.
    """
    group = await get_group(fingerprint, db=db)
    would: list[str] = []
    count, skipped = 0, Counter[str]()
    async for page in _pages(fingerprint, db):
        failed = await failed_among(queues, group.queue, page)
        count += len(failed)
        would += [job_id for job_id in page if job_id in failed][: examples - len(would)]
        others = [job_id for job_id in page if job_id not in failed]
        places = await asyncio.gather(*(place_of(queues, group.queue, job_id) for job_id in others))
        skipped.update(map(_named, places))
    total = count + skipped.total()
    return DryRun(fingerprint, group.queue, total, count, dict(skipped), would)


async def begin_bulk(
    kind: Kind,
    fingerprint: str,
    actor: Actor,
    *,
    db: Database,
    per_second: int = DEFAULT_PER_SECOND,
) -> BulkAction:
    """Write down that a bulk action begins; `run_bulk` does it.

    Raises FailureGroupNotFound.
    """
    group = await get_group(fingerprint, db=db)
    row = await db.fetchrow(
        "begin_bulk_action",
        *(uuid4(), kind, fingerprint, group.queue, actor.user, actor.reason, per_second),
        group.finals,
    )
    if row is None:
        raise LookupError("the bulk action was not written")
    return _read(row)


async def run_bulk(
    action: BulkAction,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    tell: Tell = lambda _: None,
) -> BulkAction:
    """Do it, at its rate, until its end or until someone stops it; return it as it ended.

    Cancelled, it stops after the job that it is at. Raises DatabaseUnavailable or
    redis.RedisError: it has ended then, as failed, and what was done stays done.
    """
    run = _Run(action, db, queues, tell)
    target = f"{action.queue} group {action.fingerprint}"
    state = "failed"
    try:
        async with audited(
            actor, _AUDITED[action.kind], target, db=db, details={"bulkAction": str(action.id)}
        ) as note:
            try:
                state = await run.to_its_end()
                note.outcome = Outcome(state)
            finally:
                note.details |= run.told()
    except asyncio.CancelledError:
        state = "stopped"
        raise
    finally:
        ended = await asyncio.shield(run.end(state))
    return ended


class _Run:
    """One bulk action under way, and the counts of it."""

    def __init__(self, action: BulkAction, db: Database, queues: JobQueues, tell: Tell) -> None:
        self._action = action
        self._db = db
        self._queues = queues
        self._tell = tell
        self._done = 0
        self._skipped = Counter[str]()
        self._refused = 0
        self._refusals: list[Refusal] = []

    def told(self) -> dict[str, Any]:
        """Return the counts for the audit log: both halves of what was half done."""
        return {
            "done": self._done,
            "skipped": dict(self._skipped),
            "refused": self._refused,
            "refusals": [[refusal.job_id, refusal.reason] for refusal in self._refusals],
        }

    async def to_its_end(self) -> str:
        """Go through the group at the rate; return the state that it ended in."""
        began = told_at = time.monotonic()
        taken = 0
        async for page in _pages(self._action.fingerprint, self._db):
            for job_id in page:
                if time.monotonic() - told_at >= _TELL_EVERY_S:
                    told_at = time.monotonic()
                    if await self._go_on():
                        return "stopped"
                if await self._do(job_id):
                    taken += 1
                    due = began + taken / self._action.per_second
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
        return "partly" if self._refused else "done"

    async def _do(self, job_id: str) -> bool:
        """Do it to one job; False if it had not failed any more."""
        queue = self._action.queue
        if not await failed_among(self._queues, queue, [job_id]):
            self._skipped[_named(await place_of(self._queues, queue, job_id))] += 1
            return False
        try:
            if self._action.kind == "discard":
                await steering.remove(self._queues, queue, job_id)
            elif not await steering.retry(self._queues, queue, job_id, JobPlace.FAILED):
                self._skipped["moved meanwhile"] += 1
                return False
        except OrderflowError as error:
            self._refused += 1
            if len(self._refusals) < _REFUSALS:
                self._refusals.append(Refusal(job_id, str(error)))
            return True
        self._done += 1
        return True

    async def _go_on(self) -> bool:
        """Write down how far it is; return whether someone wants it stopped."""
        row = await self._db.fetchrow("go_on_with_bulk_action", *self._counts())
        if row is None:
            return True
        self._tell(_read(row))
        return bool(row["stop_wanted"])

    async def end(self, state: str) -> BulkAction:
        """Write the end down, and return the action as it is then."""
        row = await self._db.fetchrow("end_bulk_action", *self._counts(), state)
        ended = _read(row) if row else await get_bulk(self._action.id, db=self._db)
        self._tell(ended)
        return ended

    def _counts(self) -> tuple[Any, ...]:
        refusals = [[refusal.job_id, refusal.reason] for refusal in self._refusals]
        return self._action.id, self._done, dict(self._skipped), self._refused, refusals


async def stop_bulk(action_id: UUID, actor: Actor, *, db: Database) -> BulkAction:
    """Ask a bulk action to stop, which it does within a second or so, wherever it runs.

    Raises BulkActionNotFound, or BulkActionEnded.
    """
    action = await get_bulk(action_id, db=db)
    async with audited(actor, "stop bulk action", str(action_id), db=db):
        row = await db.fetchrow("stop_bulk_action", action_id)
        if row is None:
            raise BulkActionEnded(action_id=action_id, state=action.state)
    return _read(row)


async def get_bulk(action_id: UUID, *, db: Database) -> BulkAction:
    """Return a bulk action as it is now. Raises BulkActionNotFound."""
    row = await db.fetchrow("bulk_action", action_id)
    if row is None:
        raise BulkActionNotFound(action_id=action_id)
    return _read(row)


async def list_bulk(*, db: Database, limit: int = 20) -> list[BulkAction]:
    """Return the bulk actions, the newest first."""
    return list(map(_read, await db.fetch("bulk_actions", limit)))


async def _pages(fingerprint: str, db: Database) -> AsyncIterator[list[str]]:
    """Give the ids of the group's jobs, each once, in the order in which they failed.

    Those that fail from now on are not in it: a group that goes on failing would have no end.
    """
    newest = await db.fetch("failures_of_group", fingerprint, None, 1)
    until = newest[0]["id"] if newest else 0
    after, seen = 0, set[str]()
    while rows := await db.fetch("jobs_of_group", fingerprint, after, until, _PAGE):
        after = rows[-1]["id"]
        ids = dict.fromkeys(row["job_id"] for row in rows)
        yield [job_id for job_id in ids if job_id not in seen]
        seen.update(ids)


def _named(place: str | None) -> str:
    return "removed" if place is None else str(place)


def _read(row: Row) -> BulkAction:
    state, updated = row["state"], row["updated_at"]
    if state == "running" and row["now"] - updated > _SILENT_FOR:
        state = "lost"
    return BulkAction(
        id=row["id"],
        kind=row["action"],
        fingerprint=row["fingerprint"],
        queue=row["queue"],
        user=row["actor"],
        reason=row["reason"],
        per_second=row["per_second"],
        state=state,
        jobs=row["jobs"],
        done=row["done"],
        skipped=row["skipped"],
        refused=row["refused"],
        refusals=[Refusal(*refusal) for refusal in row["refusals"]],
        stop_wanted=row["stop_wanted"],
        started_at=row["started_at"],
        updated_at=updated,
        ended_at=row["ended_at"],
    )
