"""Forgetting: a person is taken out of all that is kept; what was bought and paid stays.

The rows of orders keep their money, and in the place of the user's id a name that leads to nobody.
What Redis has left of their jobs goes, failures of them go, and texts lose what the person is
recognised by. While anything of an order is open nothing is forgotten: it would not be told.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog

from orderflow.bull import steering
from orderflow.bull.places import JobPlace, place_of
from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.db import Database
from orderflow.db.pool import Transaction
from orderflow.ended import Reason, end_statuses, jobs_of, verdicts
from orderflow.errors import JobIsRunning, JobNotFound, UserHasOpenOrders
from orderflow.orders import Row

log = structlog.get_logger(__name__)

#: What stands in the place of what is gone.
GONE = "***"
#: In a text, anything shorter is more often something else.
_SHORTEST = 4
_ORDERS_AT_ONCE = 500
_NAMED = 20

#: What a person need not be known for any more; an operator sees to it by the charge's id.
_SETTLED = {
    *(None, Reason.STRAY, Reason.BOOKS, Reason.EVENT, Reason.WEBHOOK, Reason.CHANGED),
}
#: Of an address so much leads to a person. Towns and countries stand in other texts, too.
_OF_ADDRESS = ("name", "line1", "line2")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten of a user, or would be: rows by table, and jobs in Redis.

    `pseudonym` is what the user's orders are of now; None where nothing was kept of the user.
    """

    pseudonym: str | None
    rows: Mapping[str, int]
    jobs: int


class _Undone(Exception):
    """A dry run has counted."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user with something to forget: the orders, and what recognises the person in a text."""

    user_id: str
    pseudonym: str
    order_ids: Sequence[UUID]
    payment_ids: Sequence[UUID]
    #: A regular expression, to Python and to PostgreSQL; small and large letters are the same.
    pattern: str

    @property
    def recognised(self) -> re.Pattern[str]:
        """What finds the person in a text."""
        return re.compile(self.pattern, re.IGNORECASE)


async def find_person(user_id: str, *, db: Database, undelivered: bool) -> Person | None:
    """Return the user with what is kept; None where nothing is.

    With `undelivered`, orders that are paid and that nobody said were delivered are no reason to
    wait. Raises UserHasOpenOrders.
    """
    orders = await db.fetch("orders_of_person", user_id)
    if not orders and not await db.fetch("keeps_keys", user_id):
        return None
    order_ids = [row["id"] for row in orders]
    await _check_ended(order_ids, db, undelivered=undelivered)
    pseudonym = f"forgotten-{uuid4().hex[:12]}"
    return Person(
        user_id,
        pseudonym,
        order_ids,
        [row["payment_id"] for row in orders],
        _pattern({user_id, *_known(orders)}, otherwise=pseudonym),
    )


async def forget_person(
    person: Person, *, db: Database, queues: JobQueues, dry_run: bool = False
) -> Forgotten:
    """Take the person out of everything that is kept here. A `dry_run` counts, and changes nothing.

    Rows change all at once or not at all, and last: whoever breaks off can begin again. Raises
    JobIsRunning while a worker is at a job of theirs, UserHasOpenOrders where one was opened
    meanwhile, DatabaseUnavailable or redis.RedisError.
    """
    jobs = await _jobs_in_redis(person, db, queues)
    if not dry_run:
        await _remove(person, jobs, queues)
    rows: Counter[str] = Counter()
    try:
        async with db.transaction() as transaction:
            await _forget_rows(person, transaction, rows)
            if dry_run:
                raise _Undone
    except _Undone:
        pass
    else:
        log.info("user forgotten", orders=len(person.order_ids), jobs=len(jobs))
    return Forgotten(person.pseudonym, {table: n for table, n in rows.items() if n}, len(jobs))


async def _check_ended(order_ids: Sequence[UUID], db: Any, *, undelivered: bool) -> None:
    statuses = end_statuses(undelivered=undelivered)
    found = await verdicts(order_ids, timedelta(), statuses, db)
    still = [f"{row['id']} ({row['kept']})" for row in found if row["kept"] not in _SETTLED]
    if still:
        more = [f"{len(still) - _NAMED:,} more"] if len(still) > _NAMED else []
        raise UserHasOpenOrders(count=len(still), orders=[*still[:_NAMED], *more])


def _known(orders: Iterable[Row]) -> set[str]:
    """Return all that the orders know of the person."""
    known: set[str | None] = set()
    for row in orders:
        address = row["shipping_address"] or {}
        known |= {row["email"], row["phone"], *row["tracking_numbers"]}
        known |= {address.get(part) for part in _OF_ADDRESS}
    return {value for value in known if value is not None}


def _pattern(values: Iterable[str], otherwise: str) -> str:
    """Return what finds any of the values as words of their own, also inside of JSON."""
    told = {value for value in values if len(value) >= _SHORTEST} or {otherwise}
    spelled = told | {json.dumps(value, ensure_ascii=False)[1:-1] for value in told}
    # The longest first: it may hold another.
    either = "|".join(re.escape(value) for value in sorted(spelled, key=len, reverse=True))
    return rf"(?<!\w)(?:{either})(?!\w)"


async def _jobs_in_redis(person: Person, db: Database, queues: JobQueues) -> list[tuple[str, str]]:
    """Return the queues and ids of what Redis has of the orders' jobs. Raises JobIsRunning."""
    places: dict[tuple[str, str], str | None] = {}
    for some in _in_parts(person.order_ids):
        named = await jobs_of(some, db)
        jobs = [job for of_order in named.values() for job in of_order]
        for job, at in zip(jobs, await queues.places(jobs), strict=True):
            if at.state is not JobState.MISSING:
                places[at.queue, job.job_id] = at.state
        # Those of producers have ids of their own; the ones that failed are known.
        for row in await db.fetch("failed_jobs_of_orders", some):
            places[row["queue"], row["job_id"]] = await place_of(
                queues, row["queue"], row["job_id"]
            )
    for (_, job_id), place in places.items():
        if place in (JobState.ACTIVE, JobPlace.ACTIVE):
            raise JobIsRunning(job_id=job_id, action="forgotten")
    return sorted(job for job, place in places.items() if place is not None)


async def _remove(person: Person, jobs: Sequence[tuple[str, str]], queues: JobQueues) -> None:
    """Remove the jobs, and what Redis has told of them."""
    for queue, job_id in jobs:
        with suppress(JobNotFound):
            await steering.remove(queues, queue, job_id)
    for name in {*queues.names.all(), *(queue for queue, _ in jobs)}:
        ids = {job_id for queue, job_id in jobs if queue == name}
        await steering.drop_told(queues, name, ids, person.recognised)


async def _forget_rows(person: Person, transaction: Transaction, rows: Counter[str]) -> None:
    await transaction.fetch("lock_payments", list(person.payment_ids))
    await transaction.fetch("allow_forgetting")
    for some in _in_parts(person.order_ids):
        counted = await transaction.fetchrow(
            "forget_orders", some, person.pattern, person.pseudonym
        )
        rows.update(dict(counted or {}))
    rows.update(
        dict(await transaction.fetchrow("forget_user", person.user_id, person.pattern) or {})
    )
    rows["audit_log"] += await _forget_in_audit(person, transaction)


async def _forget_in_audit(person: Person, transaction: Transaction) -> int:
    """Mask the reasons of what was done to the orders, and the person wherever it is named."""
    masked = 0
    for row in await transaction.fetch("actions_about", list(person.order_ids), person.pattern):
        before = (row["target"], row["reason"], row["details"])
        reason = GONE if row["of_an_order"] and row["reason"] else row["reason"]
        after = tuple(
            _masked(part, person.recognised) for part in (row["target"], reason, row["details"])
        )
        if after != before:
            await transaction.fetch("forget_in_action", row["id"], *after)
            masked += 1
    return masked


def _in_parts(order_ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    for start in range(0, len(order_ids), _ORDERS_AT_ONCE):
        yield list(order_ids[start : start + _ORDERS_AT_ONCE])


def _masked(value: Any, recognised: re.Pattern[str]) -> Any:
    """Return JSON whose texts do not name the person."""
    match value:
        case str():
            return recognised.sub(GONE, value)
        case Mapping():
            return {name: _masked(inner, recognised) for name, inner in value.items()}
        case list():
            return [_masked(inner, recognised) for inner in value]
    return value
