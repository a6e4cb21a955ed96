"""Orders over HTTP as operators see them: found, and told; and who did what by hand."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import AuditQuery, SearchBody, admin_state
from orderflow.api.answers import as_json
from orderflow.api.reading import read_body, read_query
from orderflow.operations.audit import list_actions
from orderflow.operations.orders import find_orders
from orderflow.operations.story import tell_story


async def search_orders(request: Request) -> Response:
    """Answer the orders that a text is an id of."""
    state, _ = await admin_state(request)
    body = await read_body(request, SearchBody)
    orders = await find_orders(
        body.find, db=state.reads, queues=state.resources.queues, limit=body.limit
    )
    return JSONResponse({"orders": as_json(orders)})


async def get_story(request: Request) -> Response:
    """Answer all that is known of an order, on one line of time."""
    state, _ = await admin_state(request)
    story = await tell_story(
        request.path_params["order_id"],
        db=state.reads,
        queues=state.resources.queues,
    )
    return JSONResponse(as_json(story))


async def list_audit(request: Request) -> Response:
    """Answer what was done by hand, the newest first."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, AuditQuery)
    actions = await list_actions(
        db=state.resources.db,
        limit=query.limit,
        before=query.before,
        user=query.user,
        action=query.action,
    )
    return JSONResponse({"actions": as_json(actions)})
