"""The admin API in the OpenAPI document: all its paths, and the schemas that they name."""

from __future__ import annotations

from pydantic import BaseModel

from orderflow.api.admin import examples, requests
from orderflow.api.admin.describing import POSTGRES, REDIS, act, body_schema, list_of, look
from orderflow.api.admin.failure_reference import FAILURE_PATHS
from orderflow.api.admin.order_reference import ORDER_PATHS
from orderflow.api.admin.queue_reference import QUEUE_PATHS
from orderflow.api.answers import Json, as_json, schemas_of
from orderflow.api.operations import Operation
from orderflow.api.problems import Kind
from orderflow.api.schemas import ref
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


ADMIN_PATHS: dict[str, dict[str, Operation]] = {
    **QUEUE_PATHS,
    **FAILURE_PATHS,
    **ORDER_PATHS,
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
