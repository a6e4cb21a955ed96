"""Who did what, when and why: one row before an action begins, and one when it has ended.

An action that cannot be written down is not done. The table is append-only, which the database
itself holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

import structlog

from orderflow.db import Database, Reads
from orderflow.errors import OrderflowError
from orderflow.orders import Row

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, by which way, and why: free text of a person, kept as it is.

    A worker acts by itself where nobody else is there to: its user is `orderflow`.
    """

    user: str
    via: Literal["api", "cli", "page", "worker"]
    reason: str = ""


class Outcome(StrEnum):
    """How an action ended."""

    DONE = "done"
    PARTLY = "partly"  # the details say of what it was done, and of what not
    STOPPED = "stopped"  # by a person, or with its process
    REFUSED = "refused"  # nothing was changed
    FAILED = "failed"  # whether something was changed is not known


@dataclass(frozen=True, slots=True)
class Action:
    """An action as the audit log has it; no outcome while it is under way, or its process died."""

    id: int
    at: datetime
    user: str
    via: str
    action: str
    target: str
    order_id: UUID | None
    reason: str
    outcome: Outcome | None
    ended_at: datetime | None
    details: Mapping[str, Any]


@dataclass(slots=True)
class Note:
    """What an action says of its end. It is done unless it says something else."""

    outcome: Outcome = Outcome.DONE
    details: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def audited(
    actor: Actor,
    action: str,
    target: str,
    *,
    db: Database,
    order_id: UUID | None = None,
    details: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Note]:
    """Write down that `action` on `target` begins, and after what is done inside how it ended.

    An error inside is written down and goes on. Raises DatabaseUnavailable before anything is done.
    """
    begun = await db.fetchrow(
        "begin_action",
        *(actor.user, actor.via, action, target, order_id, actor.reason, dict(details)),
    )
    if begun is None:
        raise LookupError("the audit log took no row")
    note = Note()
    try:
        yield note
    except OrderflowError as error:
        note.outcome = Outcome.REFUSED
        note.details["why"] = str(error)
        raise
    except asyncio.CancelledError:
        note.outcome = Outcome.STOPPED
        raise
    except BaseException as error:
        note.outcome = Outcome.FAILED
        note.details["why"] = type(error).__name__
        raise
    finally:
        await _write_end(begun["id"], note, db)
        log.info(
            "operator action",
            action=action,
            target=target,
            user=actor.user,
            via=actor.via,
            outcome=note.outcome.value,
        )


async def _write_end(begun: int, note: Note, db: Database) -> None:
    """Write the end down; what was done cannot be undone for want of it."""
    try:
        await db.fetchrow("end_action", begun, note.outcome.value, note.details)
    except OrderflowError as error:
        log.warning("outcome of an action not written", action_id=begun, reason=str(error))


async def list_actions(
    *,
    db: Database,
    limit: int = 50,
    before: int | None = None,
    user: str | None = None,
    action: str | None = None,
) -> list[Action]:
    """Return what was done by hand, the newest first; `before` is the id that a page goes on at."""
    return list(map(_read, await db.fetch("actions", before, limit, user, action)))


async def actions_on_order(order_id: UUID, *, db: Reads, limit: int = 100) -> list[Action]:
    """Return what was done by hand about an order, the newest first."""
    return list(map(_read, await db.fetch("actions_on_order", order_id, limit)))


def _read(row: Row) -> Action:
    outcome = row["outcome"]
    return Action(
        id=row["id"],
        at=row["at"],
        user=row["actor"],
        via=row["via"],
        action=row["action"],
        target=row["target"],
        order_id=row["order_id"],
        reason=row["reason"],
        outcome=Outcome(outcome) if outcome else None,
        ended_at=row["ended_at"],
        details=row["details"],
    )
