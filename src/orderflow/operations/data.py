"""Old orders deleted and people forgotten by operators, with who did it and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from orderflow import forget, purge
from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.errors import OrderflowError
from orderflow.forget import Forgotten
from orderflow.operations.audit import Actor, Outcome, audited
from orderflow.purge import Purged


async def purge_orders(
    older_than: timedelta,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    stop: asyncio.Event,
    batch: int,
    undelivered: bool,
    tell: Callable[[Purged], None],
) -> Purged:
    """Do what `purge.purge_orders` does. Of one that breaks down is written what it had deleted."""
    purged, failure = Purged(), None

    def keep(so_far: Purged) -> None:
        nonlocal purged
        purged = so_far
        tell(so_far)

    details = {"olderThanDays": older_than.days, "undelivered": undelivered}
    async with audited(actor, "purge", "old orders", db=db, details=details) as note:
        try:
            purged = await purge.purge_orders(
                older_than,
                db=db,
                queues=queues,
                stop=stop,
                batch=batch,
                undelivered=undelivered,
                tell=keep,
            )
        except OrderflowError as error:
            failure = error
            note.outcome = Outcome.PARTLY
            note.details["why"] = str(error)
        if purged.stopped:
            note.outcome = Outcome.STOPPED
        note.details |= {"deleted": dict(purged.rows), "jobs": purged.jobs}
    if failure is not None:
        raise failure
    return purged


async def forget_user(
    user_id: str,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
    undelivered: bool = False,
    dry_run: bool = False,
) -> Forgotten:
    """Take a user out of all that is kept, or with `dry_run` say what of.

    With `undelivered`, orders that are paid and that nobody said were delivered are no reason to
    wait. The audit log names the pseudonym, and not the user. Raises what `forget` raises.
    """
    person = await forget.find_person(user_id, db=db, undelivered=undelivered)
    if person is None:
        return Forgotten(None, {}, 0)
    if dry_run:
        return await forget.forget_person(person, db=db, queues=queues, dry_run=True)
    async with audited(actor, "forget", person.pseudonym, db=db) as note:
        forgotten = await forget.forget_person(person, db=db, queues=queues)
        note.details |= _counts(forgotten)
    return forgotten


def _counts(forgotten: Forgotten) -> dict[str, Any]:
    return {"rows": dict(forgotten.rows), "jobs": forgotten.jobs}
