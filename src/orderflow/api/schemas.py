"""The schemas of the answers, and one example of each. The request's come from its models."""

from __future__ import annotations

from enum import Enum
from typing import Any

from orderflow.api.answers import schemas_of
from orderflow.api.problems import Kind
from orderflow.checkout_body import Checkout
from orderflow.contract import PaymentMethod
from orderflow.live_status import LiveStatus
from orderflow.orders import OrderRefund, OrderStatus, PaymentStatus, Shipment, Source

Schema = dict[str, Any]

REF = "#/components/schemas/{model}"

_ORDER_ID = "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b"
_PAYMENT_ID = "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5c"
_MONEY = {"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}$", "description": "Two decimals"}
_CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$", "description": "ISO 4217"}
_TIME = {"type": "string", "format": "date-time", "description": "UTC"}
_UUID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}


def ref(model: str) -> Schema:
    """Return the reference to a schema of the document."""
    return {"$ref": REF.format(model=model)}


def schemas() -> dict[str, Schema]:
    """Return every schema of the document by its name."""
    checkout = Checkout.model_json_schema(by_alias=True, ref_template=REF)
    return {
        **_ANSWERS,
        **schemas_of(Shipment, OrderRefund, LiveStatus),
        **{name: untitled(schema) for name, schema in checkout.pop("$defs").items()},
        "Checkout": untitled(checkout),
    }


def untitled(schema: Any) -> Any:
    """Drop the titles that pydantic makes from Python's names: they say nothing more."""
    if isinstance(schema, dict):
        return {
            name: untitled(inner)
            for name, inner in schema.items()
            if not (name == "title" and isinstance(inner, str))
        }
    return [untitled(inner) for inner in schema] if isinstance(schema, list) else schema


def _values(enum: type[Enum]) -> Schema:
    return {"type": "string", "enum": [member.value for member in enum]}


def _object(
    description: str, optional: dict[str, Schema] | None = None, **fields: Schema
) -> Schema:
    """Return the schema of an object that always has `fields` and sometimes the optional ones."""
    return {
        "type": "object",
        "description": description,
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
    }


_ANSWERS: dict[str, Schema] = {
    "Receipt": _object(
        "What a checkout is answered with: the order is kept and will come to its end.",
        orderId=_UUID,
        paymentId=_UUID,
        status=_values(OrderStatus),
        total=_MONEY,
        currency=_CURRENCY,
    ),
    "Order": _object(
        "An order. `userId` and `source` are there for admins only, `shipment` and `refunds` where "
        "it is one order and no page of them.",
        {
            "userId": _MAYBE_TEXT,
            "source": _values(Source),
            "shipment": {"anyOf": [ref("Shipment"), {"type": "null"}]},
            "refunds": {"type": "array", "items": ref("OrderRefund")},
        },
        orderId=_UUID,
        status=_values(OrderStatus),
        total=_MONEY,
        currency=_CURRENCY,
        items={"type": "array", "items": ref("OrderItem")},
        payment=ref("OrderPayment"),
        contact=ref("OrderContact"),
        shippingAddress={"anyOf": [ref("Address"), {"type": "null"}]},
        createdAt=_TIME,
        updatedAt=_TIME,
    ),
    "OrderItem": _object(
        "One line of an order: the product as it was named and priced at checkout.",
        sku=_TEXT,
        name=_TEXT,
        quantity={"type": "integer", "minimum": 1},
        unitPrice=_MONEY,
        total=_MONEY,
    ),
    "OrderPayment": _object(
        "How an order is paid, and how far that is.",
        {
            "clientSecret": {
                "type": "string",
                "description": "With status `requires_action`, for the customer who ordered: what "
                "the gateway's script in the browser goes on with",
            }
        },
        paymentId=_UUID,
        method=_values(PaymentMethod),
        status=_values(PaymentStatus),
        declineReason=_MAYBE_TEXT,
    ),
    "OrderContact": _object(
        "Where the customer is told. An order of another producer may have none.",
        email=_MAYBE_TEXT,
        phone=_MAYBE_TEXT,
    ),
    "OrderPage": _object(
        "A page of orders, newest first.",
        orders={"type": "array", "items": ref("Order")},
        nextCursor={
            **_MAYBE_TEXT,
            "description": "Send it as `cursor` for the next page; null on the last one",
        },
    ),
    "Event": _object(
        "An event, as the gateway writes it. What it holds is the gateway's own.",
        {
            "id": {"type": "string", "description": "The gateway's name for it"},
            "type": {"type": "string", "description": "What it tells"},
        },
    ),
    "TakenEvent": _object(
        "An event of the gateway.",
        eventId={"type": "string", "description": "The gateway's name for it"},
        new={"type": "boolean", "description": "False if it was kept before, or is not ours"},
    ),
    "Liveness": _object("The process answers.", status={"const": "ok"}),
    "Readiness": _object(
        "Whether checkouts can be taken. They can without Redis: then it is `degraded`.",
        status={"type": "string", "enum": ["ok", "degraded", "unavailable", "stopping"]},
        checks=ref("ServerChecks"),
    ),
    "ServerChecks": _object("Each server.", postgres=ref("ServerCheck"), redis=ref("ServerCheck")),
    "ServerCheck": _object(
        "How one server is.",
        {"reason": {"type": "string", "description": "Why it is down"}},
        status={"type": "string", "enum": ["up", "down"]},
    ),
    "Problem": _object(
        "An error, as RFC 9457 has it. Programs go by `type`; `detail` is for people.",
        {
            "errors": {"type": "array", "items": ref("Fault"), "description": "Every fault"},
            "sku": {"type": "string", "description": "With out-of-stock: the product"},
        },
        type={"type": "string", "enum": [kind.urn for kind in Kind]},
        title=_TEXT,
        status={"type": "integer", "minimum": 400, "maximum": 599},
        detail=_TEXT,
        instance={"type": "string", "description": "The path of the request"},
    ),
    "Fault": _object(
        "One part of a request that breaks a rule.",
        field={
            "type": "string",
            "description": "A JSON pointer into the body, or a header's or parameter's name",
        },
        rule={"type": "string", "description": "Stable, for programs"},
        detail=_TEXT,
    ),
}

CHECKOUT_EXAMPLE = {
    "items": [{"sku": "pot-glass", "quantity": 2}],
    "paymentMethod": "card",
    "paymentToken": "tok_approve",
    "contact": {"email": "ada@shop.example", "phone": "+4915112345678"},
    "shippingAddress": {
        "name": "Ada Lovelace",
        "line1": "Musterweg 1",
        "postalCode": "10115",
        "city": "Berlin",
        "country": "DE",
    },
}

RECEIPT_EXAMPLE = {
    "orderId": _ORDER_ID,
    "paymentId": _PAYMENT_ID,
    "status": "pending",
    "total": "39.98",
    "currency": "EUR",
}

ORDER_EXAMPLE = {
    "orderId": _ORDER_ID,
    "status": "confirmed",
    "total": "39.98",
    "currency": "EUR",
    "items": [
        {
            "sku": "pot-glass",
            "name": "Glass teapot",
            "quantity": 2,
            "unitPrice": "19.99",
            "total": "39.98",
        }
    ],
    "payment": {
        "paymentId": _PAYMENT_ID,
        "method": "card",
        "status": "completed",
        "declineReason": None,
    },
    "contact": CHECKOUT_EXAMPLE["contact"],
    "shippingAddress": CHECKOUT_EXAMPLE["shippingAddress"],
    "createdAt": "2026-01-31T12:00:00.000Z",
    "updatedAt": "2026-01-31T12:00:02.125Z",
}

ONE_ORDER_EXAMPLE = ORDER_EXAMPLE | {
    "shipment": {
        "carrier": "Parcels Ltd",
        "trackingNumber": "00340434161094021501",
        "shippedAt": "2026-02-01T09:30:00.000Z",
        "deliveredAt": None,
    },
    "refunds": [],
}

CANCELLED_ORDER_EXAMPLE = ORDER_EXAMPLE | {
    "status": "cancelled",
    "shipment": None,
    "refunds": [
        {
            "refundId": "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5e",
            "cause": "cancel",
            "amount": "39.98",
            "currency": "EUR",
            "status": "pending",
            "declineReason": None,
            "createdAt": "2026-01-31T12:01:00.000Z",
            "updatedAt": "2026-01-31T12:01:00.000Z",
        }
    ],
}

LIVE_STATUS_EXAMPLE: dict[str, Any] = {
    "orderId": _ORDER_ID,
    "status": "confirmed",
    "at": "2026-01-31T12:00:02.125Z",
    "payment": {"status": "completed", "declineReason": None},
    "shipment": None,
    "refunds": [],
}

ORDER_PAGE_EXAMPLE = {"orders": [ORDER_EXAMPLE], "nextCursor": None}

EVENT_EXAMPLE = {
    "id": "evt_1Q2w3E4r5T6y7U8i",
    "type": "payment_intent.succeeded",
    "data": {"object": {"object": "payment_intent", "id": "pi_1Q2w3E4r5T6y7U8i"}},
}

TAKEN_EVENT_EXAMPLE = {"eventId": "evt_1Q2w3E4r5T6y7U8i", "new": True}

READINESS_EXAMPLE = {
    "status": "degraded",
    "checks": {
        "postgres": {"status": "up"},
        "redis": {"status": "down", "reason": "ConnectionError"},
    },
}

UNREADINESS_EXAMPLE = {
    "status": "unavailable",
    "checks": {
        "postgres": {"status": "down", "reason": "ConnectionRefusedError"},
        "redis": {"status": "up"},
    },
}
