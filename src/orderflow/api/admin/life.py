"""What operators do with an order over HTTP: cancel, refund, ship and deliver it."""

from __future__ import annotations

from decimal import Decimal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.admin.requests import (
    ActionBody,
    RefundBody,
    ShipBody,
    actor_of,
    admin_action,
    admin_state,
)
from orderflow.api.answers import as_json
from orderflow.api.idempotency_key import invalid_key, read_idempotency_key
from orderflow.api.orders import find_order, told_order_json
from orderflow.api.reading import read_body
from orderflow.operations import life as use


async def cancel_order(request: Request) -> Response:
    """Cancel an order, and answer how it is then."""
    state, actor, _ = await admin_action(request, ActionBody)
    order_id, db = request.path_params["order_id"], state.resources.db
    await use.cancel_order(order_id, actor, **state.resources.stores)
    order = await find_order(order_id, db=db)
    return JSONResponse(await told_order_json(order, db=db, admin=True))


async def refund_order(request: Request) -> Response:
    """Have money given back, and answer the refund. The same key gets the same refund."""
    state, user = await admin_state(request)
    key = read_idempotency_key(request.headers, state.resources.settings)
    if key is None:
        raise invalid_key("required", "Without one a refund that is sent again is a second one.")
    body = await read_body(request, RefundBody)
    refund = await use.refund_order(
        request.path_params["order_id"],
        None if body.amount is None else Decimal(body.amount),
        key.key,
        actor_of(user, body),
        **state.resources.stores,
    )
    return JSONResponse(as_json(refund), 202)


async def ship_order(request: Request) -> Response:
    """Say that an order is on its way, and answer how it was sent."""
    state, actor, body = await admin_action(request, ShipBody)
    shipment = await use.ship_order(
        request.path_params["order_id"],
        body.carrier,
        body.tracking_number,
        actor,
        **state.resources.stores,
    )
    return JSONResponse(as_json(shipment))


async def deliver_order(request: Request) -> Response:
    """Say that an order has come, and answer how it was sent."""
    state, actor, _ = await admin_action(request, ActionBody)
    shipment = await use.deliver_order(
        request.path_params["order_id"], actor, **state.resources.stores
    )
    return JSONResponse(as_json(shipment))
