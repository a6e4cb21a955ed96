"""People over HTTP: forgotten."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import ForgetBody, admin_action
from orderflow.api.answers import as_json
from orderflow.operations import data as use


async def forget_user(request: Request) -> Response:
    """Take a person out of all that is kept, and answer what was."""
    state, actor, body = await admin_action(request, ForgetBody)
    forgotten = await use.forget_user(
        request.path_params["user_id"],
        actor,
        **state.resources.stores,
        undelivered=body.undelivered,
        dry_run=body.dry_run,
    )
    return JSONResponse(as_json(forgotten))
