"""Jobs over HTTP: lists by state, one in full, and what is done to one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import ActionBody, JobsQuery, RetryBody, admin_action, admin_state
from orderflow.api.answers import as_json
from orderflow.api.reading import read_query
from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.operations import jobs as use
from orderflow.operations.audit import Actor


async def list_jobs(request: Request) -> Response:
    """Answer a page of the jobs in one state."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, JobsQuery)
    page = await use.list_jobs(
        request.path_params["queue"],
        query.state,
        queues=state.resources.queues,
        start=query.start,
        limit=query.limit,
    )
    return JSONResponse(as_json(page))


async def get_job(request: Request) -> Response:
    """Answer a job in full."""
    state, _ = await admin_state(request)
    job = await use.get_job(*_named(request), **state.resources.stores)
    return JSONResponse(as_json(job))


async def retry_job(request: Request) -> Response:
    """Run a job again, with data of the request's if it has some."""
    state, actor, body = await admin_action(request, RetryBody)
    await use.retry_job(*_named(request), actor, **state.resources.stores, data=body.data)
    return _done(request)


async def promote_job(request: Request) -> Response:
    """Let a delayed job wait for its turn now."""
    return await _act(request, use.promote_job)


async def remove_job(request: Request) -> Response:
    """Remove a job."""
    return await _act(request, use.remove_job)


async def move_to_waiting(request: Request) -> Response:
    """Let a job wait for its turn from wherever it is."""
    return await _act(request, use.move_to_waiting)


class _Action(Protocol):
    def __call__(
        self, queue: str, job_id: str, actor: Actor, /, *, db: Database, queues: JobQueues
    ) -> Awaitable[None]: ...


async def _act(request: Request, action: _Action) -> Response:
    state, actor, _ = await admin_action(request, ActionBody)
    await action(*_named(request), actor, **state.resources.stores)
    return _done(request)


def _done(request: Request) -> Response:
    queue, job_id = _named(request)
    return JSONResponse({"status": "done", "queue": queue, "id": job_id})


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["queue"], request.path_params["job_id"]
