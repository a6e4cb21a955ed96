"""The admin API in the OpenAPI document: its schemas, and the operations of orders and people."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from orderflow.api.admin import examples, requests
from orderflow.api.admin.describing import IN_PATH, POSTGRES, REDIS, act, body_schema, list_of, look
from orderflow.api.admin.failure_reference import FAILURE_PATHS
from orderflow.api.admin.queue_reference import QUEUE_PATHS
from orderflow.api.answers import Json, as_json, schemas_of
from orderflow.api.operations import Operation, idempotency_key
from orderflow.api.problems import Kind
from orderflow.api.schemas import CANCELLED_ORDER_EXAMPLE, ref
from orderflow.forget import Forgotten
from orderflow.operations.audit import Action
from orderflow.operations.bulk import BulkAction, DryRun
from orderflow.operations.failures import Failure, FailureGroup
from orderflow.operations.jobs import JobDetails, JobPage
from orderflow.operations.orders import FoundOrder
from orderflow.operations.queues import QueueSummary, Removed
from orderflow.operations.story import Story
from orderflow.operations.workers import Fleet

ADMIN_TAG = {"name": "admin", "description": "Operating it, with the role admin"}

_BODIES: tuple[type[BaseModel], ...] = (
    requests.ActionBody,
    requests.DrainBody,
    requests.CleanBody,
    requests.RateLimitBody,
    requests.ConcurrencyBody,
    requests.RetryBody,
    requests.BulkBody,
    requests.RefundBody,
    requests.ShipBody,
    requests.ForgetBody,
    requests.SearchBody,
    requests.Rate,
)


def admin_schemas() -> dict[str, Json]:
    """Return every schema of the admin API by its name."""
    text = {"type": "string"}
    return {
        **schemas_of(
            *(QueueSummary, Removed, JobPage, JobDetails, FailureGroup, Failure, DryRun),
            *(BulkAction, FoundOrder, Story, Fleet, Action, Forgotten),
        ),
        **{model.__name__: body_schema(model) for model in _BODIES},
        "QueueList": list_of("How every known queue is.", "queues", "QueueSummary"),
        "GroupList": list_of("Groups of failures.", "groups", "FailureGroup"),
        "GroupPage": {
            "type": "object",
            "description": "A group, and the newest of its failures.",
            "properties": {
                "group": ref("FailureGroup"),
                "failures": {"type": "array", "items": ref("Failure")},
            },
            "required": ["group", "failures"],
        },
        "BulkList": list_of("Bulk actions, the newest first.", "actions", "BulkAction"),
        "OrderList": list_of("Orders, the newest first.", "orders", "FoundOrder"),
        "ActionList": list_of("What was done by hand, the newest first.", "actions", "Action"),
        "JobDone": {
            "type": "object",
            "description": "It was done to the job.",
            "properties": {"status": {"const": "done"}, "queue": text, "id": text},
            "required": ["status", "queue", "id"],
        },
    }


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


ADMIN_PATHS: dict[str, dict[str, Operation]] = {
    **QUEUE_PATHS,
    **FAILURE_PATHS,
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
    "/admin/api/users/{userId}/forget": {
        "post": act(
            "forgetUser",
            "Forget a person",
            "Orders keep what was bought and paid, under a `pseudonym`; all else that is known of "
            "the user goes. With `dryRun` nothing changes. No `pseudonym`: nothing is kept.",
            ("ForgetBody", {"dryRun": True, "reason": "asked for in a letter"}),
            "Forgotten",
            as_json(examples.FORGOTTEN),
            Kind.USER_HAS_OPEN_ORDERS,
            Kind.JOB_IS_RUNNING,
            path=("userId",),
        )
    },
    "/admin/api/workers": {
        "get": look(
            "listWorkers",
            "Who works on which queue",
            "In any language, with the jobs that each runs as far as it tells.",
            "Fleet",
            as_json(examples.FLEET),
            *REDIS,
        )
    },
    "/admin/api/audit": {
        "get": look(
            "listActions",
            "What was done by hand",
            "By whom, when, why, and how it ended. No `outcome`: it is under way, or its process "
            "died.",
            "ActionList",
            {"actions": [as_json(examples.ACTION)]},
            *POSTGRES,
            query=requests.AuditQuery,
        )
    },
}
