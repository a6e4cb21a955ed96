"""Failures over HTTP: groups of them, and what is done to all jobs of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import (
    ActionBody,
    BeforeQuery,
    BulkBody,
    GroupsQuery,
    LimitQuery,
    admin_action,
    admin_state,
)
from orderflow.api.answers import as_json
from orderflow.api.reading import read_query
from orderflow.errors import BulkActionNotFound
from orderflow.operations import bulk
from orderflow.operations import failures as use
from orderflow.operations.queues import check_queue


async def list_groups(request: Request) -> Response:
    """Answer the groups, the one that was seen last first."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, GroupsQuery)
    if query.queue is not None:
        await check_queue(query.queue, queues=state.resources.queues)
    since = datetime.now(UTC) - timedelta(seconds=query.within_s) if query.within_s else None
    groups = await use.list_groups(
        db=state.resources.db, queue=query.queue, since=since, limit=query.limit
    )
    return JSONResponse({"groups": as_json(groups)})


async def get_group(request: Request) -> Response:
    """Answer a group, and the newest of its failures."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, BeforeQuery)
    db, fingerprint = state.resources.db, request.path_params["fingerprint"]
    group = await use.get_group(fingerprint, db=db)
    failures = await use.failures_of_group(
        fingerprint, db=db, before=query.before, limit=query.limit
    )
    return JSONResponse({"group": as_json(group), "failures": as_json(failures)})


async def try_bulk(request: Request) -> Response:
    """Answer what a retry or discard of a group would do now."""
    state, _ = await admin_state(request)
    run = await bulk.try_bulk(request.path_params["fingerprint"], **state.resources.stores)
    return JSONResponse(as_json(run))


async def retry_group(request: Request) -> Response:
    """Begin to run all jobs of a group again."""
    return await _begin(request, "retry")


async def discard_group(request: Request) -> Response:
    """Begin to remove all jobs of a group."""
    return await _begin(request, "discard")


async def _begin(request: Request, kind: bulk.Kind) -> Response:
    state, actor, body = await admin_action(request, BulkBody)
    action = await bulk.begin_bulk(
        kind,
        request.path_params["fingerprint"],
        actor,
        db=state.resources.db,
        per_second=body.per_second,
    )
    state.background.start(
        bulk.run_bulk(action, actor, **state.resources.stores),
        f"{kind} of group {action.fingerprint}",
    )
    return JSONResponse(as_json(action), 202, {"Location": f"/admin/api/bulk/{action.id}"})


async def list_bulk(request: Request) -> Response:
    """Answer the bulk actions, the newest first."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, LimitQuery)
    actions = await bulk.list_bulk(db=state.resources.db, limit=query.limit)
    return JSONResponse({"actions": as_json(actions)})


async def get_bulk(request: Request) -> Response:
    """Answer how far a bulk action is."""
    state, _ = await admin_state(request)
    return JSONResponse(as_json(await bulk.get_bulk(_bulk_id(request), db=state.resources.db)))


async def stop_bulk(request: Request) -> Response:
    """Ask a bulk action to stop."""
    state, actor, _ = await admin_action(request, ActionBody)
    action = await bulk.stop_bulk(_bulk_id(request), actor, db=state.resources.db)
    return JSONResponse(as_json(action), 202)


def _bulk_id(request: Request) -> UUID:
    asked = request.path_params["action_id"]
    try:
        return UUID(asked)
    except ValueError:
        raise BulkActionNotFound(action_id=asked) from None
