"""People over HTTP: forgotten."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import ForgetBody, actor, admin_state
from orderflow.api.answers import as_json
from orderflow.api.reading import read_body
from orderflow.operations import data as use


async def forget_user(request: Request) -> Response:
    """Take a person out of all that is kept, and answer what was."""
    state, user = await admin_state(request)
    body = await read_body(request, ForgetBody)
    forgotten = await use.forget_user(
        request.path_params["user_id"],
        actor(user, body),
        db=state.resources.db,
        queues=state.resources.queues,
        undelivered=body.undelivered,
        dry_run=body.dry_run,
    )
    return JSONResponse(as_json(forgotten))
