"""Queues over HTTP: how each is, and what is done to all of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import (
    ActionBody,
    CleanBody,
    ConcurrencyBody,
    DrainBody,
    RateLimitBody,
    admin_action,
    admin_state,
)
from orderflow.api.answers import as_json
from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.operations import queues as use
from orderflow.operations.audit import Actor
from orderflow.operations.workers import list_workers as look_for_workers


async def list_queues(request: Request) -> Response:
    """Answer how each known queue is."""
    state, _ = await admin_state(request)
    queues = await use.list_queues(queues=state.resources.queues)
    return JSONResponse({"queues": as_json(queues)})


async def get_queue(request: Request) -> Response:
    """Answer how a queue is."""
    state, _ = await admin_state(request)
    name = request.path_params["queue"]
    return JSONResponse(as_json(await use.get_queue(name, queues=state.resources.queues)))


async def pause_queue(request: Request) -> Response:
    """Pause a queue, and answer how it is then."""
    return await _act(request, use.pause_queue)


async def resume_queue(request: Request) -> Response:
    """Resume a queue, and answer how it is then."""
    return await _act(request, use.resume_queue)


class _Action(Protocol):
    def __call__(
        self, name: str, actor: Actor, /, *, db: Database, queues: JobQueues
    ) -> Awaitable[use.QueueSummary]: ...


async def _act(request: Request, action: _Action) -> Response:
    state, actor, _ = await admin_action(request, ActionBody)
    queue = await action(request.path_params["queue"], actor, **state.resources.stores)
    return JSONResponse(as_json(queue))


async def drain_queue(request: Request) -> Response:
    """Remove what waits in a queue, and answer how much is left."""
    state, actor, body = await admin_action(request, DrainBody)
    removed = await use.drain_queue(
        request.path_params["queue"],
        actor,
        **state.resources.stores,
        delayed=body.delayed,
        limit=body.limit,
    )
    return JSONResponse(as_json(removed))


async def clean_queue(request: Request) -> Response:
    """Remove what ended in a queue, and answer how much is left."""
    state, actor, body = await admin_action(request, CleanBody)
    removed = await use.clean_queue(
        request.path_params["queue"],
        body.state,
        body.older_than_s,
        actor,
        **state.resources.stores,
        limit=body.limit,
    )
    return JSONResponse(as_json(removed))


async def set_rate_limit(request: Request) -> Response:
    """Set the rate limit of a queue, or take it off, and answer how it is then."""
    state, actor, body = await admin_action(request, RateLimitBody)
    limit = body.rate_limit
    queue = await use.set_rate_limit(
        request.path_params["queue"],
        use.RateLimit(limit.max, limit.duration_ms) if limit else None,
        actor,
        **state.resources.stores,
    )
    return JSONResponse(as_json(queue))


async def set_concurrency(request: Request) -> Response:
    """Set the concurrency of a queue, or take it off, and answer how it is then."""
    state, actor, body = await admin_action(request, ConcurrencyBody)
    queue = await use.set_concurrency(
        request.path_params["queue"], body.concurrency, actor, **state.resources.stores
    )
    return JSONResponse(as_json(queue))


async def list_workers(request: Request) -> Response:
    """Answer who works on which queue."""
    state, _ = await admin_state(request)
    resources = state.resources
    fleet = await look_for_workers(queues=resources.queues, settings=resources.settings)
    return JSONResponse(as_json(fleet))
