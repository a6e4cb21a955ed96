"""POST /webhooks/{gateway}: what a gateway tells is checked, kept and answered, and done later."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.faults import Fault
from orderflow.api.problems import Kind, Problem
from orderflow.api.state import state_of
from orderflow.errors import EventSignatureWrong
from orderflow.gateway_events import take_event
from orderflow.gateways.opening import read_event


async def post_gateway_event(request: Request) -> Response:
    """Answer an event once it is kept; one that came before, or is not ours, is answered alike."""
    resources = state_of(request).resources
    gateway = request.path_params["gateway"]
    body = await request.body()
    try:
        event = read_event(gateway, body, request.headers, resources.settings)
    except EventSignatureWrong as error:
        faults = [Fault(error.header, "signature-of-the-gateway", str(error))]
        raise Problem(Kind.INVALID_HEADER, str(error), faults=faults) from None
    new = await take_event(event, gateway, db=resources.db, queues=resources.queues)
    return JSONResponse({"eventId": event.id, "new": new})
