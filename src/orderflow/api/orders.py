"""Orders over HTTP: customers see and cancel their own, admins see everybody's."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow import cancel
from orderflow.api.answers import as_json
from orderflow.api.auth import User
from orderflow.api.reading import read_query
from orderflow.api.state import state_of
from orderflow.contract import row_id
from orderflow.db import Reads
from orderflow.errors import OrderNotFound
from orderflow.orders import Item, Order, OrderStatus, PaymentStatus
from orderflow.refund import refunds_of
from orderflow.shipping import shipment_of

MAX_LIMIT = 100
DEFAULT_LIMIT = 20


def encode_cursor(order_id: UUID) -> str:
    """Return the cursor that goes on after this order."""
    return base64.urlsafe_b64encode(order_id.bytes).decode().rstrip("=")


def _decode_cursor(cursor: object) -> UUID:
    try:
        order_id = UUID(bytes=base64.urlsafe_b64decode(f"{cursor}=="))
    except (ValueError, binascii.Error):
        order_id = None
    # base64 is lenient: what does not come out the same was not made here.
    if order_id is None or encode_cursor(order_id) != cursor:
        raise PydanticCustomError("cursor", "Send a `nextCursor` of an earlier answer")
    return order_id


class OrdersQuery(BaseModel):
    """The query of GET /orders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: OrderStatus | None = None
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: Annotated[UUID, BeforeValidator(_decode_cursor)] | None = None


async def get_order(request: Request) -> Response:
    """Answer one order. Somebody else's is answered like one that does not exist."""
    state = state_of(request)
    user = await state.tokens.user(request.headers)
    asked = request.path_params["order_id"]
    order = await find_order(asked, db=state.reads)
    if not (user.admin or order.user_id == user.id):
        raise OrderNotFound(order_id=asked)
    body = await told_order_json(order, db=state.reads, admin=user.admin)
    if order.payment_status is PaymentStatus.REQUIRES_ACTION and order.user_id == user.id:
        # Who has it may pay: nobody but the customer needs that.
        secret = await state.reads.fetchrow("find_client_secret", order.payment_id)
        if secret is not None and secret["client_secret"] is not None:
            body["payment"]["clientSecret"] = secret["client_secret"]
    return JSONResponse(body)


async def cancel_order(request: Request) -> Response:
    """Cancel an order of the user's own, and answer how it is then."""
    state = state_of(request)
    user = await state.tokens.user(request.headers)
    asked = request.path_params["order_id"]
    db = state.resources.db
    await cancel.cancel_order(asked, db=db, queues=state.resources.queues, owner=user.id)
    order = await find_order(asked, db=db)
    return JSONResponse(await told_order_json(order, db=db, admin=user.admin))


async def find_order(order_id: str, *, db: Reads) -> Order:
    """Return an order. Raises OrderNotFound."""
    # An id that is no UUID is looked up too: adopted orders keep their producer's id.
    row = await db.fetchrow("find_order", row_id(order_id))
    if row is None:
        raise OrderNotFound(order_id=order_id)
    return Order.from_row(row)


async def list_orders(request: Request) -> Response:
    """Answer a page of orders, newest first, and the cursor of the next page."""
    state = state_of(request)
    user = await state.tokens.user(request.headers)
    query = read_query(request.query_params, OrdersQuery)
    orders = await _fetch_page(state.reads, user, query)
    page = orders[: query.limit]
    more = len(orders) > query.limit
    return JSONResponse(
        {
            "orders": [order_json(order, admin=user.admin) for order in page],
            "nextCursor": encode_cursor(page[-1].id) if more else None,
        }
    )


async def _fetch_page(db: Reads, user: User, query: OrdersQuery) -> Sequence[Order]:
    """Return the page and, if there are more orders, one order of the next page."""
    args = (query.status, query.cursor, query.limit + 1)
    if user.admin:
        rows = await db.fetch("list_orders", *args)
    else:
        rows = await db.fetch("list_orders_of_user", *args, user.id)
    return [Order.from_row(row) for row in rows]


async def told_order_json(order: Order, *, db: Reads, admin: bool) -> dict[str, Any]:
    """Return an order with what became of it after its payment."""
    shipment, refunds = await asyncio.gather(
        shipment_of(order.id, db=db), refunds_of(order.id, db=db)
    )
    return order_json(order, admin=admin) | {
        "shipment": as_json(shipment),
        "refunds": as_json(refunds),
    }


def order_json(order: Order, *, admin: bool) -> dict[str, Any]:
    """Return an order as its customer may see it, or an admin."""
    body: dict[str, Any] = {
        "orderId": str(order.id),
        "status": order.status.value,
        "total": _money(order.total),
        "currency": order.currency,
        "items": [_item_json(item) for item in order.items],
        "payment": {
            "paymentId": str(order.payment_id),
            "method": order.payment_method.value,
            "status": order.payment_status.value,
            "declineReason": order.decline_reason,
        },
        "contact": {"email": order.email, "phone": order.phone},
        "shippingAddress": order.shipping_address,
        "createdAt": _time(order.created_at),
        "updatedAt": _time(order.updated_at),
    }
    if admin:
        body |= {"userId": order.user_id, "source": order.source.value}
    return body


def _item_json(item: Item) -> dict[str, Any]:
    return {
        "sku": item.sku,
        "name": item.name,
        "quantity": item.quantity,
        "unitPrice": _money(item.unit_price),
        "total": _money(item.total),
    }


def _money(amount: Decimal) -> str:
    return f"{amount:.2f}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
