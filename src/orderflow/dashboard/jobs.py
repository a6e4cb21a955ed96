"""A job in full, and what is done to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from orderflow.bull.places import LOST
from orderflow.dashboard.actions import Field, InvalidField, Question, asked_first
from orderflow.dashboard.pages import Context, View, Visit
from orderflow.dashboard.text import pretty
from orderflow.dashboard.urls import acted, job_url, queue_url
from orderflow.errors import InvalidPayload
from orderflow.operations import jobs as use
from orderflow.operations.audit import Actor

#: What can be done to a job, by its state.
_POSSIBLE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "failed": (("retry", "Retry"), ("edit", "Edit and retry"), ("remove", "Remove")),
    "completed": (("retry", "Run again"), ("remove", "Remove")),
    "delayed": (("promote", "Promote"), ("remove", "Remove")),
    "waiting": (("remove", "Remove"),),
    "paused": (("remove", "Remove"),),
    "active": (("move", "Move back to waiting"),),
    LOST: (("remove", "Remove"),),
}


async def show_job(visit: Visit) -> Response:
    """Answer the job: its data, options, log, attempts, and what can be done about it."""
    queue, job_id = visit.path("queue"), visit.query("id")

    async def look() -> Context:
        job = await use.get_job(queue, job_id, **visit.stores)
        return {"job": job, "possible": _POSSIBLE.get(job.summary.state, ())}

    return await visit.live("job", look)


async def _ask_retry(visit: Visit) -> Question:
    job = await _job(visit)
    return Question(
        title=f"Run {job.summary.name} again",
        says=(
            f"Job {job.summary.id} {job.summary.state}. It waits for its turn again, with the "
            "data that it has and its attempts counted anew.\n"
            "A payment that has its outcome keeps it: nothing is charged twice."
        ),
        button="Retry",
    )


async def _retry(visit: Visit, actor: Actor) -> None:
    await use.retry_job(visit.path("queue"), visit.query("id"), actor, **visit.stores)


async def _ask_edit(visit: Visit) -> Question:
    job = await _job(visit)
    return Question(
        title=f"Edit {job.summary.name} and run it again",
        says=(
            f"Job {job.summary.id} waits for its turn again, with these data in place of its own, "
            "and its attempts counted anew.\n"
            "What is masked, as ***, stays what it was unless you write something else there."
        ),
        button="Save and retry",
        fields=(Field("data", "Data", pretty(job.data), kind="json"),),
    )


async def _edit(visit: Visit, actor: Actor) -> None:
    try:
        await use.retry_job(
            visit.path("queue"),
            visit.query("id"),
            actor,
            data=_json(visit.form.get("data", "")),
            **visit.stores,
        )
    except InvalidPayload as error:
        raise InvalidField("data", "; ".join(error.faults)) from None


async def _ask_promote(visit: Visit) -> Question:
    job = await _job(visit)
    return Question(
        title=f"Promote {job.summary.name}",
        says=(f"Job {job.summary.id} waits for its turn now, and not only when its delay is over."),
        button="Promote",
    )


async def _promote(visit: Visit, actor: Actor) -> None:
    await use.promote_job(visit.path("queue"), visit.query("id"), actor, **visit.stores)


async def _ask_move(visit: Visit) -> Question:
    job = await _job(visit)
    return Question(
        title=f"Move {job.summary.name} back to waiting",
        says=(
            f"Job {job.summary.id} is taken back from the worker that had it, and is the first "
            "to be run again. This is refused while that worker shows a sign of life."
        ),
        button="Move back",
    )


async def _move(visit: Visit, actor: Actor) -> None:
    await use.move_to_waiting(visit.path("queue"), visit.query("id"), actor, **visit.stores)


async def _ask_remove(visit: Visit) -> Question:
    job = await _job(visit)
    return Question(
        title=f"Remove {job.summary.name}",
        says=(
            f"Job {job.summary.id} is removed with its data and its log. This cannot be undone.\n"
            "The reconciler adds again what an open order needs."
        ),
        button="Remove",
        dangerous=True,
    )


async def _remove(visit: Visit, actor: Actor) -> str:
    job = await _job(visit)
    await use.remove_job(visit.path("queue"), visit.query("id"), actor, **visit.stores)
    state = job.summary.state
    return acted(queue_url(visit.path("queue"), "" if state == LOST else state))


def _back(visit: Visit) -> str:
    return job_url(visit.path("queue"), visit.query("id"))


JOB_ACTIONS: Mapping[str, View] = {
    "retry": asked_first(_ask_retry, _retry, _back),
    "edit": asked_first(_ask_edit, _edit, _back),
    "promote": asked_first(_ask_promote, _promote, _back),
    "move": asked_first(_ask_move, _move, _back),
    "remove": asked_first(_ask_remove, _remove, _back),
}


async def _job(visit: Visit) -> use.JobDetails:
    return await use.get_job(visit.path("queue"), visit.query("id"), **visit.stores)


def _json(text: str) -> Any:
    """Return what the text is. Raises InvalidField where it is no JSON that Redis can hold."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is none")

    try:
        data = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InvalidField(
            "data", f"must be JSON: line {error.lineno}, {error.msg.lower()}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidField("data", f"must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidField("data", "must be an object of JSON")
    return data
