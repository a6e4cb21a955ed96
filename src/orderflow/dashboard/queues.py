"""A queue: how it is, its jobs by state, and what is done to all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response

from orderflow.bull.history import read_history
from orderflow.dashboard.actions import (
    Field,
    InvalidField,
    Question,
    asked_first,
    number_or_none,
    whole_number,
)
from orderflow.dashboard.charts import minutes_chart
from orderflow.dashboard.pages import Context, View, Visit
from orderflow.dashboard.urls import queue_url
from orderflow.operations import queues as use
from orderflow.operations.audit import Actor
from orderflow.operations.jobs import list_jobs

PAGE = 25
_CHART_MIN = 60
_STATES = ("waiting", "active", "delayed", "failed", "completed", "paused", "waiting-children")
#: A request ends in good time; who wants more does it again.
_REMOVED_AT_ONCE = 50_000
_MOST_JOBS = 1_000_000
_LONGEST_MS = 3_600_000
_LONGEST_AGO_S = 1_000_000_000


async def show_queue(visit: Visit) -> Response:
    """Answer the queue with the jobs of one state, a page of them."""
    name, state = visit.path("queue"), visit.query("state", "waiting")
    start = visit.number("start")

    async def look() -> Context:
        queues = visit.resources.queues
        queue, page, history = await asyncio.gather(
            use.get_queue(name, queues=queues),
            list_jobs(name, state, queues=queues, start=start, limit=PAGE),
            read_history(queues, name, _CHART_MIN),
        )
        return {
            "queue": queue,
            "page": page,
            "states": _STATES,
            "size": PAGE,
            "history": history,
            "chart": minutes_chart(history.completed, history.failed),
        }

    return await visit.live("queue", look)


async def _ask_pause(visit: Visit) -> Question:
    queue = await _queue(visit)
    return Question(
        title=f"Pause {queue.name}",
        says=(
            "No worker starts a job of this queue any more, in Python or in Node. "
            f"The {queue.counts['active']:,} that run go on to their end.\n"
            "Orders are taken all the same: their jobs wait until the queue is resumed."
        ),
        button="Pause",
    )


async def _pause(visit: Visit, actor: Actor) -> None:
    await use.pause_queue(visit.path("queue"), actor, **visit.stores)


async def _ask_resume(visit: Visit) -> Question:
    queue = await _queue(visit)
    waiting = queue.counts["waiting"] + queue.counts["paused"]
    return Question(
        title=f"Resume {queue.name}",
        says=f"Workers start the jobs of this queue again: {waiting:,} wait.",
        button="Resume",
    )


async def _resume(visit: Visit, actor: Actor) -> None:
    await use.resume_queue(visit.path("queue"), actor, **visit.stores)


async def _ask_drain(visit: Visit) -> Question:
    queue = await _queue(visit)
    return Question(
        title=f"Drain {queue.name}",
        says=(
            f"The jobs that wait are removed: {queue.counts['waiting']:,} just now, and at most "
            f"{_REMOVED_AT_ONCE:,} at once. Those that run go on, and those that ended stay.\n"
            "This cannot be undone. The reconciler adds again what an open order needs; what "
            "other services added is gone."
        ),
        button="Remove the waiting jobs",
        fields=(
            Field(
                "delayed",
                f"The {queue.counts['delayed']:,} delayed jobs, too",
                kind="check",
                hint="The next job of a schedule stays.",
            ),
        ),
        dangerous=True,
    )


async def _drain(visit: Visit, actor: Actor) -> None:
    await use.drain_queue(
        visit.path("queue"),
        actor,
        delayed="delayed" in visit.form,
        limit=_REMOVED_AT_ONCE,
        **visit.stores,
    )


async def _ask_clean(visit: Visit) -> Question:
    queue = await _queue(visit)
    return Question(
        title=f"Clean {queue.name}",
        says=(
            f"Jobs that ended are removed, at most {_REMOVED_AT_ONCE:,} at once. "
            f"{queue.counts['failed']:,} failed and {queue.counts['completed']:,} completed.\n"
            "This cannot be undone. What is known of the failures stays."
        ),
        button="Remove these jobs",
        fields=(
            Field("state", "Jobs that", "failed", kind="choice", choices=("failed", "completed")),
            Field(
                "older_than_s",
                "Seconds since their end",
                "3600",
                kind="number",
                hint="Only jobs that ended so long ago, or longer.",
            ),
        ),
        dangerous=True,
    )


async def _clean(visit: Visit, actor: Actor) -> None:
    state = visit.form.get("state", "")
    if state not in ("failed", "completed"):
        raise InvalidField("state", "must be failed or completed")
    await use.clean_queue(
        visit.path("queue"),
        state,
        whole_number(visit.form, "older_than_s", 0, _LONGEST_AGO_S),
        actor,
        limit=_REMOVED_AT_ONCE,
        **visit.stores,
    )


async def _ask_rate_limit(visit: Visit) -> Question:
    queue = await _queue(visit)
    limit = queue.rate_limit
    return Question(
        title=f"Rate limit of {queue.name}",
        says=(
            f"{_limit_now(queue)}\n"
            "A limit holds over all workers, in Python and in Node, until it is changed here. Jobs "
            "over it wait. A worker with a limit of its own, as by RATE_LIMITS, takes the number "
            "from here, and its own duration."
        ),
        button="Set the limit",
        fields=(
            Field(
                "max",
                "Jobs",
                str(limit.max) if limit else "",
                kind="number",
                hint="Empty: no limit.",
            ),
            Field(
                "duration_ms",
                "Milliseconds",
                str(limit.duration_ms if limit else 1_000),
                kind="number",
            ),
        ),
    )


async def _set_rate_limit(visit: Visit, actor: Actor) -> None:
    limit = None
    if most := number_or_none(visit.form, "max", _MOST_JOBS):
        limit = use.RateLimit(most, whole_number(visit.form, "duration_ms", 1, _LONGEST_MS))
    await use.set_rate_limit(visit.path("queue"), limit, actor, **visit.stores)


async def _ask_concurrency(visit: Visit) -> Question:
    queue = await _queue(visit)
    return Question(
        title=f"Global concurrency of {queue.name}",
        says=(
            f"{_concurrency_now(queue)}\n"
            "A limit holds over all workers, in Python and in Node, until it is changed here."
        ),
        button="Set the limit",
        fields=(
            Field(
                "most",
                "Jobs at once",
                str(queue.concurrency or ""),
                kind="number",
                hint="Empty: no limit.",
            ),
        ),
    )


async def _set_concurrency(visit: Visit, actor: Actor) -> None:
    most = number_or_none(visit.form, "most", _MOST_JOBS)
    await use.set_concurrency(visit.path("queue"), most, actor, **visit.stores)


def _back(visit: Visit) -> str:
    return queue_url(visit.path("queue"))


def _back_to_failed(visit: Visit) -> str:
    return queue_url(visit.path("queue"), "failed")


QUEUE_ACTIONS: Mapping[str, View] = {
    "pause": asked_first(_ask_pause, _pause, _back),
    "resume": asked_first(_ask_resume, _resume, _back),
    "drain": asked_first(_ask_drain, _drain, _back),
    "clean": asked_first(_ask_clean, _clean, _back_to_failed),
    "rate-limit": asked_first(_ask_rate_limit, _set_rate_limit, _back),
    "concurrency": asked_first(_ask_concurrency, _set_concurrency, _back),
}


async def _queue(visit: Visit) -> use.QueueSummary:
    return await use.get_queue(visit.path("queue"), queues=visit.resources.queues)


def _limit_now(queue: use.QueueSummary) -> str:
    limit = queue.rate_limit
    if limit is None:
        return "There is no limit just now."
    return f"At most {limit.max:,} jobs start in {limit.duration_ms:,} ms just now."


def _concurrency_now(queue: use.QueueSummary) -> str:
    if queue.concurrency is None:
        return "There is no limit but the workers' own just now."
    return f"At most {queue.concurrency:,} jobs run at once just now."
