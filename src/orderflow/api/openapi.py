"""The OpenAPI 3.1 document of the API, at /openapi.json. The page /docs is made from it."""

from __future__ import annotations

import json
from functools import cache

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow import __version__
from orderflow.api.admin.reference import ADMIN_PATHS, ADMIN_TAG, admin_schemas
from orderflow.api.admin.webhook_reference import WEBHOOK_PATHS, webhook_schemas
from orderflow.api.operations import (
    Json,
    Operation,
    answer,
    content,
    header,
    idempotency_key,
    query,
)
from orderflow.api.orders import DEFAULT_LIMIT, MAX_LIMIT
from orderflow.api.problems import Kind
from orderflow.api.schemas import (
    CANCELLED_ORDER_EXAMPLE,
    CHECKOUT_EXAMPLE,
    EVENT_EXAMPLE,
    LIVE_STATUS_EXAMPLE,
    ONE_ORDER_EXAMPLE,
    ORDER_EXAMPLE,
    ORDER_PAGE_EXAMPLE,
    READINESS_EXAMPLE,
    RECEIPT_EXAMPLE,
    TAKEN_EVENT_EXAMPLE,
    UNREADINESS_EXAMPLE,
    schemas,
)
from orderflow.orders import OrderStatus

_SIGNED_IN = (Kind.UNAUTHENTICATED, Kind.SIGNING_KEYS_UNAVAILABLE)

_ACCEPT_LANGUAGE = {
    "name": "Accept-Language",
    "in": "header",
    "description": "The languages in which the customer is written to, as far as the shop has "
    "them. `contact.language` goes before it.",
    "schema": {"type": "string"},
    "example": "de-AT, de;q=0.9, en;q=0.5",
}

_POST_CHECKOUT = Operation(
    id="postCheckout",
    tag="checkout",
    summary="Place an order",
    description="Writes the order and answers; its payment is taken in the background. With an "
    "`Idempotency-Key` a request may be sent again, whatever came of it: it makes one order.",
    parameters=[idempotency_key("The shop may require it."), _ACCEPT_LANGUAGE],
    body=content("Checkout", CHECKOUT_EXAMPLE),
    answers={
        "202": {
            **answer("The order is kept.", "Receipt", RECEIPT_EXAMPLE),
            "headers": {
                "Location": header("The order's path", format="uri-reference"),
                "Idempotent-Replayed": header(
                    "Only on the answer to a request that was answered before", const="true"
                ),
            },
        }
    },
    problems=(
        *_SIGNED_IN,
        Kind.NOT_JSON,
        Kind.INVALID_HEADER,
        Kind.OUT_OF_STOCK,
        Kind.BODY_TOO_LARGE,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.INVALID_BODY,
        Kind.UNKNOWN_PRODUCTS,
        Kind.MIXED_CURRENCIES,
        Kind.TOTAL_TOO_LARGE,
        Kind.IDEMPOTENCY_KEY_REUSED,
        Kind.TOO_MANY_REQUESTS,
        Kind.DATABASE_UNAVAILABLE,
        Kind.TOO_MANY_CHECKOUTS,
        Kind.PAYMENTS_BEHIND,
    ),
)

_LIST_ORDERS = Operation(
    id="listOrders",
    tag="orders",
    summary="List orders",
    description="Your own orders, newest first. Admins see everybody's.",
    parameters=[
        query("status", "Only orders in this status", enum=[str(status) for status in OrderStatus]),
        query(
            "limit",
            "Orders on a page",
            type="integer",
            minimum=1,
            maximum=MAX_LIMIT,
            default=DEFAULT_LIMIT,
        ),
        query("cursor", "The `nextCursor` of the page before"),
    ],
    answers={"200": answer("A page of orders.", "OrderPage", ORDER_PAGE_EXAMPLE)},
    problems=(*_SIGNED_IN, Kind.INVALID_QUERY, Kind.DATABASE_UNAVAILABLE),
)

_ORDER_ID = {
    "name": "orderId",
    "in": "path",
    "required": True,
    "description": "The `orderId` of the receipt",
    "schema": {"type": "string"},
    "example": ORDER_EXAMPLE["orderId"],
}

_GET_ORDER = Operation(
    id="getOrder",
    tag="orders",
    summary="See one order",
    description="Your own order; admins see every order, an adopted one by its producer's id too.",
    parameters=[_ORDER_ID],
    answers={"200": answer("The order.", "Order", ONE_ORDER_EXAMPLE)},
    problems=(*_SIGNED_IN, Kind.ORDER_NOT_FOUND, Kind.DATABASE_UNAVAILABLE),
)

_CANCEL_ORDER = Operation(
    id="cancelOrder",
    tag="orders",
    summary="Cancel an order",
    description="Your own, until it is shipped. What was charged is given back in the background. "
    "An order that is cancelled already is answered as it is, so this may be sent again.",
    parameters=[_ORDER_ID],
    answers={"200": answer("The order, cancelled.", "Order", CANCELLED_ORDER_EXAMPLE)},
    problems=(
        *_SIGNED_IN,
        Kind.ORDER_NOT_FOUND,
        Kind.ILLEGAL_TRANSITION,
        Kind.DATABASE_UNAVAILABLE,
    ),
)

_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event that was seen: what came after it is sent again. "
    "Without it the first event says how the order is now.",
    "schema": {"type": "string"},
    "example": "pending.pending.0",
}

_GET_ORDER_EVENTS = Operation(
    id="getOrderEvents",
    tag="orders",
    summary="Follow an order",
    description="As it happens, for who may see the order: Server-Sent Events, each with an `id`. "
    "The `data` of an event `status` is a `LiveStatus` in JSON. After an event `end` nothing "
    "comes any more. Comments in between keep the connection open. The stream also ends when its "
    "token expires or the server is replaced: then come again with the `id` of the last event.",
    parameters=[_ORDER_ID, _LAST_EVENT_ID],
    answers={
        "200": {
            "description": "The events.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": "retry: 3000\n\nevent: status\nid: confirmed.completed.0\n"
                    f"data: {json.dumps(LIVE_STATUS_EXAMPLE)}\n\n",
                }
            },
        },
        "204": {
            "description": "All was told, and nothing comes any more: do not ask again.",
            "content": {},
        },
    },
    problems=(
        *_SIGNED_IN,
        Kind.INVALID_HEADER,
        Kind.ORDER_NOT_FOUND,
        Kind.TOO_MANY_STREAMS_OF_USER,
        Kind.TOO_MANY_STREAMS,
        Kind.DATABASE_UNAVAILABLE,
    ),
)

_POST_WEBHOOK = Operation(
    id="postWebhook",
    tag="webhooks",
    summary="Tell of a payment",
    description="For the payment gateway, which signs what it sends. An event is kept, answered, "
    "and done in the background; one that comes again is answered alike.",
    parameters=[
        {
            "name": "gateway",
            "in": "path",
            "required": True,
            "description": "The gateway that `PAYMENT_GATEWAY` names",
            "schema": {"type": "string"},
            "example": "stripe",
        }
    ],
    body=content("Event", EVENT_EXAMPLE),
    answers={"200": answer("The event is kept.", "TakenEvent", TAKEN_EVENT_EXAMPLE)},
    problems=(
        Kind.INVALID_HEADER,
        Kind.NOT_FOUND,
        Kind.BODY_TOO_LARGE,
        Kind.INVALID_BODY,
        Kind.WEBHOOKS_NOT_SET_UP,
        Kind.DATABASE_UNAVAILABLE,
    ),
    public=True,
)

_LIVEZ = Operation(
    id="getLiveness",
    tag="health",
    summary="Is the process alive?",
    description="Answers as long as the process does. It asks no server.",
    answers={"200": answer("It is.", "Liveness", {"status": "ok"})},
    public=True,
)

_READYZ = Operation(
    id="getReadiness",
    tag="health",
    summary="Can checkouts be taken?",
    description="Asks PostgreSQL and Redis, for one second at most. Without Redis they can be.",
    answers={
        "200": answer("They can.", "Readiness", READINESS_EXAMPLE),
        "503": answer("PostgreSQL does not answer.", "Readiness", UNREADINESS_EXAMPLE),
    },
    public=True,
)


def _page(operation_id: str, summary: str, media_type: str, kind: str = "string") -> Operation:
    page = {"description": summary, "content": {media_type: {"schema": {"type": kind}}}}
    return Operation(
        id=operation_id,
        tag="reference",
        summary=summary,
        description=f"As `{media_type}`.",
        answers={"200": page},
        public=True,
    )


_PATHS = {
    "/checkout": {"post": _POST_CHECKOUT},
    "/orders": {"get": _LIST_ORDERS},
    "/orders/{orderId}": {"get": _GET_ORDER},
    "/orders/{orderId}/cancel": {"post": _CANCEL_ORDER},
    "/orders/{orderId}/events": {"get": _GET_ORDER_EVENTS},
    "/webhooks/{gateway}": {"post": _POST_WEBHOOK},
    "/livez": {"get": _LIVEZ},
    "/readyz": {"get": _READYZ},
    "/openapi.json": {"get": _page("getOpenapi", "This document", "application/json", "object")},
    "/docs": {"get": _page("getDocs", "This document as a page to read", "text/html")},
    "/docs/style.css": {"get": _page("getDocsStyle", "The looks of the page", "text/css")},
    **ADMIN_PATHS,
    **WEBHOOK_PATHS,
}

_INFO = {
    "title": "orderflow",
    "version": __version__,
    "summary": "Order processing: every checkout is carried to its end.",
    "description": "Takes checkouts and tells how orders go. A checkout that is answered 202 is "
    "kept and comes to its end in the background. Errors are `application/problem+json`.",
    "license": {"name": "MIT", "identifier": "MIT"},
}

_TAGS = [
    {"name": "checkout", "description": "Placing orders"},
    {"name": "orders", "description": "Seeing what became of them"},
    {"name": "webhooks", "description": "For the payment gateway"},
    {"name": "health", "description": "For load balancers and orchestrators"},
    ADMIN_TAG,
    {"name": "reference", "description": "This document and its page"},
]

_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A token of the shop's login. `sub` is the user and `exp` is required; a list "
    '`roles` with "admin" in it makes an admin.',
}


@cache
def openapi_document() -> Json:
    """Return the document, built once."""
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/", "description": "This server"}],
        "tags": _TAGS,
        "paths": {
            path: {method: operation.to_json() for method, operation in methods.items()}
            for path, methods in _PATHS.items()
        },
        "components": {
            "schemas": {**schemas(), **admin_schemas(), **webhook_schemas()},
            "securitySchemes": {"bearer": _BEARER},
        },
    }


async def get_openapi(_request: Request) -> Response:
    """Answer the document."""
    return JSONResponse(openapi_document(), headers={"Cache-Control": "no-cache"})
