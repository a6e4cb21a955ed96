"""Orders, and what operators do with one, in the OpenAPI document."""

from __future__ import annotations

from dataclasses import replace

from orderflow.api.admin import examples
from orderflow.api.admin.describing import IN_PATH, POSTGRES, REDIS, act, look
from orderflow.api.answers import Json, as_json
from orderflow.api.operations import Operation, idempotency_key
from orderflow.api.problems import Kind
from orderflow.api.schemas import CANCELLED_ORDER_EXAMPLE


def _on_order(
    verb: str,
    summary: str,
    description: str,
    body: tuple[str, Json],
    answered: tuple[str, Json],
    *problems: Kind,
    status: str = "200",
) -> Operation:
    return act(
        f"{verb}OrderByHand",
        summary,
        description,
        body,
        *answered,
        Kind.ORDER_NOT_FOUND,
        *problems,
        path=("orderId",),
        status=status,
    )


ORDER_PATHS: dict[str, dict[str, Operation]] = {
    "/admin/api/orders/search": {
        "post": act(
            "searchOrders",
            "Orders that a text is an id of",
            "The id of an order, payment, job, user or transaction, or an e-mail address.",
            ("SearchBody", {"find": "ada@shop.example", "limit": 20}),
            "OrderList",
            {"orders": [as_json(examples.FOUND)]},
            path=(),
        )
    },
    "/admin/api/orders/{orderId}/story": {
        "get": look(
            "getStory",
            "What happened to an order",
            "On one line of time: its payment, jobs with every attempt, messages, stray charges, "
            "and what was done by hand.",
            "Story",
            as_json(examples.STORY),
            Kind.ORDER_NOT_FOUND,
            *REDIS,
            *POSTGRES,
            path=("orderId",),
        )
    },
    "/admin/api/orders/{orderId}/cancel": {
        "post": _on_order(
            "cancel",
            "Cancel an order for its customer",
            "Until it is shipped. What was charged is given back in the background. One that is "
            "cancelled already is answered as it is.",
            ("ActionBody", {"reason": "the customer called"}),
            ("Order", CANCELLED_ORDER_EXAMPLE),
            Kind.ILLEGAL_TRANSITION,
        )
    },
    "/admin/api/orders/{orderId}/refund": {
        "post": replace(
            _on_order(
                "refund",
                "Give money back",
                "All or a part of what was charged, in the background, and never more than that. "
                "The same key for the same order gets the same refund.",
                ("RefundBody", {"amount": "8.90", "reason": "one tin was dented"}),
                ("OrderRefund", as_json(examples.REFUND)),
                Kind.INVALID_HEADER,
                Kind.NOTHING_TO_REFUND,
                Kind.REFUND_TOO_LARGE,
                Kind.IDEMPOTENCY_KEY_REUSED,
                status="202",
            ),
            parameters=[
                IN_PATH["orderId"],
                idempotency_key("It is required.", required=True),
            ],
        )
    },
    "/admin/api/orders/{orderId}/ship": {
        "post": _on_order(
            "ship",
            "Say that an order is on its way",
            "Its customer is told. To say the same again changes nothing.",
            ("ShipBody", {"carrier": "Parcels Ltd", "trackingNumber": "00340434161094021501"}),
            ("Shipment", as_json(examples.SHIPMENT)),
            Kind.ILLEGAL_TRANSITION,
        )
    },
    "/admin/api/orders/{orderId}/deliver": {
        "post": _on_order(
            "deliver",
            "Say that an order has come",
            "Its customer is told. To say the same again changes nothing.",
            ("ActionBody", {}),
            ("Shipment", as_json(replace(examples.SHIPMENT, delivered_at=examples.AT))),
            Kind.ILLEGAL_TRANSITION,
        )
    },
}
