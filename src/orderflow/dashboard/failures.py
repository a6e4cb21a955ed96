"""Failures in groups, and a whole group retried or discarded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

from starlette.responses import Response

from orderflow.api.state import state_of
from orderflow.dashboard.actions import Field, Question, asked_first, whole_number
from orderflow.dashboard.pages import Context, View, Visit
from orderflow.dashboard.text import facts
from orderflow.errors import BulkActionNotFound
from orderflow.operations import bulk
from orderflow.operations.audit import Actor
from orderflow.operations.failures import failures_of_group, get_group, list_groups

PAGE = 25
_MOST_GROUPS = 100
_BULK_SHOWN = 10


async def show_failures(visit: Visit) -> Response:
    """Answer the groups, the one that was seen last first, and the newest bulk actions."""

    async def look() -> Context:
        db = visit.resources.db
        groups, actions = await asyncio.gather(
            list_groups(db=db, limit=_MOST_GROUPS), bulk.list_bulk(db=db, limit=_BULK_SHOWN)
        )
        return {"groups": groups, "actions": actions, "most_groups": _MOST_GROUPS}

    return await visit.live("failures", look)


async def show_group(visit: Visit) -> Response:
    """Answer one group: what is the same about its failures, and the failures, a page of them."""
    db, fingerprint = visit.resources.db, visit.path("fingerprint")
    group = await get_group(fingerprint, db=db)
    failures = await failures_of_group(
        fingerprint, db=db, before=visit.number("before") or None, limit=PAGE + 1
    )
    more = len(failures) > PAGE
    return visit.render("group.html", group=group, failures=failures[:PAGE], more=more)


async def show_bulk(visit: Visit) -> Response:
    """Answer how far a bulk action is."""

    async def look() -> Context:
        return {"action": await bulk.get_bulk(_bulk_id(visit), db=visit.resources.db)}

    return await visit.live("bulk", look)


async def _ask_bulk(visit: Visit, verb: str, what: str) -> Question:
    run = await bulk.try_bulk(visit.path("fingerprint"), **visit.stores)
    group = await get_group(visit.path("fingerprint"), db=visit.resources.db)
    left = f" The others are left as they are: {facts(run.skipped)}." if run.skipped else ""
    return Question(
        title=f"{verb} all that failed with {group.error_type}",
        says=(
            f"Of {run.jobs:,} jobs of this group {run.would:,} have still failed: {what}.{left}\n"
            "It goes on in the background at this rate, and can be stopped at any time.\n"
            f"{_examples(run)}"
        ),
        button=f"{verb} {run.would:,} jobs",
        fields=(
            Field(
                "per_second",
                "Jobs a second",
                str(bulk.DEFAULT_PER_SECOND),
                kind="number",
                hint=f"{bulk.MOST_PER_SECOND:,} at most.",
            ),
        ),
        dangerous=verb == "Discard",
    )


async def _ask_retry(visit: Visit) -> Question:
    return await _ask_bulk(visit, "Retry", "these wait for their turn again, attempts counted anew")


async def _ask_discard(visit: Visit) -> Question:
    return await _ask_bulk(visit, "Discard", "these are removed, which cannot be undone")


async def _begin(visit: Visit, actor: Actor, kind: bulk.Kind) -> str:
    action = await bulk.begin_bulk(
        kind,
        visit.path("fingerprint"),
        actor,
        db=visit.resources.db,
        per_second=whole_number(visit.form, "per_second", 1, bulk.MOST_PER_SECOND),
    )
    state_of(visit.request).background.start(
        bulk.run_bulk(action, actor, **visit.stores), f"bulk action {action.id}"
    )
    return f"/admin/bulk/{action.id}"


async def _retry(visit: Visit, actor: Actor) -> str:
    return await _begin(visit, actor, "retry")


async def _discard(visit: Visit, actor: Actor) -> str:
    return await _begin(visit, actor, "discard")


async def _ask_stop(visit: Visit) -> Question:
    action = await bulk.get_bulk(_bulk_id(visit), db=visit.resources.db)
    return Question(
        title=f"Stop the {action.kind} of a group",
        says=(
            "It stops within a second or so. What it was done to stays as it is: "
            f"{action.done:,} of {action.jobs:,} jobs just now. It can be begun anew for the rest."
        ),
        button="Stop",
    )


async def _stop(visit: Visit, actor: Actor) -> None:
    await bulk.stop_bulk(_bulk_id(visit), actor, db=visit.resources.db)


def _back_to_group(visit: Visit) -> str:
    return f"/admin/failures/{visit.path('fingerprint')}"


def _back_to_bulk(visit: Visit) -> str:
    return f"/admin/bulk/{_bulk_id(visit)}"


GROUP_ACTIONS: Mapping[str, View] = {
    "retry": asked_first(_ask_retry, _retry, _back_to_group),
    "discard": asked_first(_ask_discard, _discard, _back_to_group),
}
BULK_ACTIONS: Mapping[str, View] = {"stop": asked_first(_ask_stop, _stop, _back_to_bulk)}


def _examples(run: bulk.DryRun) -> str:
    return f"Among them: {', '.join(run.examples)}." if run.examples else ""


def _bulk_id(visit: Visit) -> UUID:
    try:
        return UUID(visit.path("action_id"))
    except ValueError:
        raise BulkActionNotFound(action_id=visit.path("action_id")) from None
