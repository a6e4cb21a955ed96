"""The webhooks of the admin API in the OpenAPI document: its operations and its schemas."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from orderflow.api.admin import examples, requests
from orderflow.api.admin.describing import act, body_schema, in_path, list_of, look
from orderflow.api.answers import Json, as_json, schemas_of
from orderflow.api.operations import Operation, header
from orderflow.api.problems import Kind
from orderflow.webhooks.deliveries import DeliveryStatus, WebhookAttempt, WebhookDelivery
from orderflow.webhooks.endpoints import WebhookEndpoint, WebhookSecret
from orderflow.webhooks.messages import EventType, message_id

_ID = UUID("019a1b2c-3d4e-4f60-8a9b-0c1d2e3f4a5f")
_ENDPOINT = WebhookEndpoint(
    id=_ID,
    url="https://erp.shop.example/hooks/orders",
    description="stock and invoices",
    types=[EventType.CONFIRMED, EventType.CANCELLED],
    enabled=True,
    disabled_because=None,
    secret="5f2d6c0e",  # noqa: S106 - what it is recognised by
    old_secret_until=None,
    waiting=0,
    given_up=0,
    reached_at=examples.AT,
    created_at=examples.AT,
)
_SECRET = WebhookSecret(_ENDPOINT, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=")
_DELIVERY = WebhookDelivery(
    id=4711,
    message_id=message_id(EventType.CONFIRMED, examples.ORDER, None),
    type=EventType.CONFIRMED,
    order_id=examples.ORDER,
    happened_at=examples.AT,
    status=DeliveryStatus.WAITING,
    due_at=examples.AT,
    ended_at=None,
    attempts=1,
    last_attempts=[WebhookAttempt(1, examples.AT, 48, 503, None, "we are closed")],
)

_IN_PATH = {
    "endpoint": in_path("endpointId", "The endpoint's id", str(_ID)),
    "delivery": in_path("deliveryId", "The delivery's number", str(_DELIVERY.id)),
}
_POSTGRES = Kind.DATABASE_UNAVAILABLE
_NONE, _NO_DELIVERY = Kind.WEBHOOK_ENDPOINT_NOT_FOUND, Kind.WEBHOOK_DELIVERY_NOT_FOUND


def webhook_schemas() -> dict[str, Json]:
    """Return every schema of the webhooks by its name."""
    return {
        **schemas_of(WebhookSecret, WebhookDelivery),
        "AddWebhookBody": body_schema(requests.AddWebhookBody),
        "EventType": {
            "type": "string",
            "description": EventType.__doc__,
            "enum": [event.value for event in EventType],
        },
        "WebhookEndpointList": list_of("All endpoints.", "endpoints", "WebhookEndpoint"),
        "WebhookDeliveryList": list_of(
            "What an endpoint is told, the newest first.", "deliveries", "WebhookDelivery"
        ),
        "WebhookRemoved": _count("What was removed with the endpoint.", "deliveries"),
        "WebhookResent": _count("What is tried anew.", "resent"),
    }


def _count(description: str, name: str) -> Json:
    return {
        "type": "object",
        "description": description,
        "properties": {name: {"type": "integer", "minimum": 0}},
        "required": [name],
    }


def _on(operation: Operation, *path: str) -> Operation:
    return replace(operation, parameters=[*map(_IN_PATH.__getitem__, path), *operation.parameters])


def _on_endpoint(
    verb: str,
    summary: str,
    description: str,
    answered: tuple[str, Json],
    reason: str = "",
    status: str = "200",
) -> Operation:
    body = ("ActionBody", {"reason": reason})
    operation = act(
        f"{verb}WebhookEndpoint",
        summary,
        description,
        body,
        *answered,
        _NONE,
        path=(),
        status=status,
    )
    return _on(operation, "endpoint")


def _added() -> Operation:
    operation = act(
        "addWebhookEndpoint",
        "Have a URL told of orders",
        "From now on, by [Standard Webhooks](https://www.standardwebhooks.com). The secret is "
        "answered this once. The URL must be https, and lead to public addresses.",
        (
            "AddWebhookBody",
            {
                "url": _ENDPOINT.url,
                "types": as_json(_ENDPOINT.types),
                "description": _ENDPOINT.description,
                "reason": "the new ERP",
            },
        ),
        "WebhookSecret",
        as_json(_SECRET),
        path=(),
        status="201",
    )
    operation.answers["201"]["headers"] = {
        "Location": header("Where the endpoint is", format="uri-reference")
    }
    return operation


WEBHOOK_PATHS: dict[str, dict[str, Operation]] = {
    "/admin/api/webhooks": {
        "get": look(
            "listWebhookEndpoints",
            "Who is told of orders",
            "Every endpoint, the oldest first.",
            "WebhookEndpointList",
            {"endpoints": [as_json(_ENDPOINT)]},
            _POSTGRES,
        ),
        "post": _added(),
    },
    "/admin/api/webhooks/{endpointId}": {
        "get": _on(
            look(
                "getWebhookEndpoint",
                "One endpoint",
                "How it is, and how much waits for it. Its secret is not told.",
                "WebhookEndpoint",
                as_json(_ENDPOINT),
                _NONE,
                _POSTGRES,
            ),
            "endpoint",
        )
    },
    "/admin/api/webhooks/{endpointId}/rotate": {
        "post": _on_endpoint(
            "rotate",
            "Give an endpoint a new secret",
            "It is answered this once. The one before signs as well for a day.",
            ("WebhookSecret", as_json(_SECRET)),
        )
    },
    "/admin/api/webhooks/{endpointId}/enable": {
        "post": _on_endpoint(
            "enable",
            "Go on telling an endpoint",
            "What waits goes out at once.",
            ("WebhookEndpoint", as_json(_ENDPOINT)),
        )
    },
    "/admin/api/webhooks/{endpointId}/disable": {
        "post": _on_endpoint(
            "disable",
            "Tell an endpoint nothing more",
            "What waits goes on waiting; what happens meanwhile it is never told.",
            (
                "WebhookEndpoint",
                as_json(replace(_ENDPOINT, enabled=False, disabled_because="by ada")),
            ),
        )
    },
    "/admin/api/webhooks/{endpointId}/remove": {
        "post": _on_endpoint(
            "remove",
            "Remove an endpoint",
            "With all of its deliveries, also those that wait.",
            ("WebhookRemoved", {"deliveries": 1_204}),
        )
    },
    "/admin/api/webhooks/{endpointId}/resend": {
        "post": _on_endpoint(
            "resendAllOf",
            "Try anew what was given up",
            "The oldest 10,000, under the same ids, and for days again.",
            ("WebhookResent", {"resent": 12}),
            "it is back",
            "202",
        )
    },
    "/admin/api/webhooks/{endpointId}/deliveries": {
        "get": _on(
            look(
                "listWebhookDeliveries",
                "What an endpoint is told",
                "With every attempt, the newest first.",
                "WebhookDeliveryList",
                {"deliveries": [as_json(_DELIVERY)]},
                _NONE,
                _POSTGRES,
                query=requests.DeliveriesQuery,
            ),
            "endpoint",
        )
    },
    "/admin/api/webhooks/{endpointId}/deliveries/{deliveryId}": {
        "get": _on(
            look(
                "getWebhookDelivery",
                "One delivery",
                "With every attempt, and the beginning of each answer.",
                "WebhookDelivery",
                as_json(_DELIVERY),
                _NONE,
                _NO_DELIVERY,
                _POSTGRES,
            ),
            "endpoint",
            "delivery",
        )
    },
    "/admin/api/webhooks/{endpointId}/deliveries/{deliveryId}/resend": {
        "post": _on(
            act(
                "resendWebhook",
                "Send a delivery anew",
                "Whatever came of it, under the same id, and for days again.",
                ("ActionBody", {"reason": "they lost it"}),
                "WebhookDelivery",
                as_json(_DELIVERY),
                _NONE,
                _NO_DELIVERY,
                path=(),
                status="202",
            ),
            "endpoint",
            "delivery",
        )
    },
}
