"""Webhooks over HTTP as operators see them: endpoints, what they are told, and what is resent."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import (
    ActionBody,
    AddWebhookBody,
    DeliveriesQuery,
    admin_action,
    admin_state,
)
from orderflow.api.answers import as_json
from orderflow.api.reading import read_query
from orderflow.db import Database
from orderflow.operations.audit import Actor
from orderflow.webhooks import deliveries, endpoints
from orderflow.webhooks.targets import Targets

Done = TypeVar("Done")
Done_co = TypeVar("Done_co", covariant=True)


async def list_endpoints(request: Request) -> Response:
    """Answer all endpoints."""
    state, _ = await admin_state(request)
    found = await endpoints.list_endpoints(db=state.resources.db)
    return JSONResponse({"endpoints": as_json(found)})


async def add_endpoint(request: Request) -> Response:
    """Add an endpoint, and answer its secret this once."""
    state, actor, body = await admin_action(request, AddWebhookBody)
    added = await endpoints.add_endpoint(
        body.url,
        body.types,
        body.description,
        actor,
        db=state.resources.db,
        targets=Targets(state.resources.settings.webhooks_allow_private),
    )
    location = f"/admin/api/webhooks/{added.endpoint.id}"
    return JSONResponse(as_json(added), 201, {"Location": location})


async def get_endpoint(request: Request) -> Response:
    """Answer one endpoint."""
    state, _ = await admin_state(request)
    found = await endpoints.get_endpoint(_endpoint_id(request), db=state.resources.db)
    return JSONResponse(as_json(found))


async def rotate_secret(request: Request) -> Response:
    """Give an endpoint a new secret, and answer it this once."""
    return JSONResponse(as_json(await _act(request, endpoints.rotate_secret)))


async def enable_endpoint(request: Request) -> Response:
    """Go on telling an endpoint."""
    return JSONResponse(as_json(await _act(request, endpoints.enable_endpoint)))


async def disable_endpoint(request: Request) -> Response:
    """Tell an endpoint nothing more."""
    state, actor, _ = await admin_action(request, ActionBody)
    disabled = await endpoints.disable_endpoint(
        _endpoint_id(request),
        endpoints.disabled_by(actor.user, actor.reason),
        actor,
        db=state.resources.db,
    )
    return JSONResponse(as_json(disabled))


async def remove_endpoint(request: Request) -> Response:
    """Remove an endpoint with all of its deliveries."""
    return JSONResponse({"deliveries": await _act(request, endpoints.remove_endpoint)})


async def list_deliveries(request: Request) -> Response:
    """Answer a page of what an endpoint is told, with every attempt."""
    state, _ = await admin_state(request)
    query = read_query(request.query_params, DeliveriesQuery)
    found = await deliveries.list_deliveries(
        _endpoint_id(request),
        db=state.resources.db,
        status=deliveries.DeliveryStatus(query.status) if query.status else None,
        before=query.before,
        limit=query.limit,
    )
    return JSONResponse({"deliveries": as_json(found)})


async def get_delivery(request: Request) -> Response:
    """Answer one delivery with every attempt."""
    state, _ = await admin_state(request)
    found = await deliveries.get_delivery(
        _endpoint_id(request), _delivery_id(request), db=state.resources.db
    )
    return JSONResponse(as_json(found))


async def resend_delivery(request: Request) -> Response:
    """Have a delivery sent anew."""
    state, actor, _ = await admin_action(request, ActionBody)
    resent = await deliveries.resend(
        _endpoint_id(request), _delivery_id(request), actor, db=state.resources.db
    )
    return JSONResponse(as_json(resent), 202)


async def resend_given_up(request: Request) -> Response:
    """Have all that was given up tried anew."""
    return JSONResponse({"resent": await _act(request, deliveries.resend_given_up)}, 202)


class _Action(Protocol[Done_co]):
    def __call__(
        self, endpoint_id: UUID, actor: Actor, /, *, db: Database
    ) -> Awaitable[Done_co]: ...


async def _act(request: Request, do: _Action[Done]) -> Done:
    """Do it to the endpoint of the path, for the reason of the body."""
    state, actor, _ = await admin_action(request, ActionBody)
    return await do(_endpoint_id(request), actor, db=state.resources.db)


def _endpoint_id(request: Request) -> UUID:
    return endpoints.read_endpoint_id(request.path_params["endpoint_id"])


def _delivery_id(request: Request) -> int:
    return deliveries.read_delivery_id(request.path_params["delivery_id"])
