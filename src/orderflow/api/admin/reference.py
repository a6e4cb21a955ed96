"""The admin API in the OpenAPI document: its operations, its and its schemas."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from orderflow.api.admin import examples, requests
from orderflow.api.answers import Json, as_json, schemas_of
from orderflow.api.operations import Operation, answer, content, header, idempotency_key
from orderflow.api.problems import Kind
from orderflow.api.schemas import CANCELLED_ORDER_EXAMPLE, REF, ref, untitled
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

_ADMIN = (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.SIGNING_KEYS_UNAVAILABLE)
_REDIS, _POSTGRES = (Kind.REDIS_UNAVAILABLE,), (Kind.DATABASE_UNAVAILABLE,)
_BODY = (Kind.NOT_JSON, Kind.BODY_TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE, Kind.INVALID_BODY)
_ACTS = (*_BODY, *_REDIS, *_POSTGRES)

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


def in_path(name: str, description: str, example: str) -> Json:
    """Return a parameter that is a part of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


_IN_PATH = {
    "queue": in_path("queue", "The queue's name", examples.QUEUE),
    "jobId": in_path(
        "jobId", "The job's id; one with a slash in it is not reached over HTTP", examples.JOB
    ),
    "fingerprint": in_path("fingerprint", "The group's name", examples.GROUP),
    "actionId": in_path("actionId", "The bulk action's id", str(examples.BULK)),
    "orderId": in_path("orderId", "The order's id, or its producer's", str(examples.ORDER)),
    "userId": in_path("userId", "The user's id, as `sub` of the tokens has it", "user-1"),
}


def _query(model: type[BaseModel]) -> list[Json]:
    """Return the parameters of a query, made from what reads it."""
    found = []
    for name, schema in model.model_json_schema(by_alias=True)["properties"].items():
        rules = {**schema, **schema.get("anyOf", [{}])[0]}
        for left_out in ("anyOf", "title"):
            rules.pop(left_out, None)
        if rules.get("default", "") is None:
            del rules["default"]
        description = rules.pop("description")
        found.append({"name": name, "in": "query", "description": description, "schema": rules})
    return found


def body_schema(model: type[BaseModel]) -> Json:
    """Return the schema of a body, made from what reads it."""
    schema = model.model_json_schema(by_alias=True, ref_template=REF)
    schema.pop("$defs", None)
    plain: Json = untitled(schema)
    return plain


def list_of(description: str, name: str, model: str) -> Json:
    """Return the schema of an answer that is a list under a name."""
    return {
        "type": "object",
        "description": description,
        "properties": {name: {"type": "array", "items": ref(model)}},
        "required": [name],
    }


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


def look(
    operation_id: str,
    summary: str,
    description: str,
    model: str,
    example: Json,
    *problems: Kind,
    path: tuple[str, ...] = (),
    query: type[BaseModel] | None = None,
) -> Operation:
    """Return an operation that changes nothing."""
    asked = _query(query) if query else []
    return Operation(
        id=operation_id,
        tag="admin",
        summary=summary,
        description=description,
        parameters=[*(_IN_PATH[name] for name in path), *asked],
        answers={"200": answer(f"{summary}.", model, example)},
        problems=(*_ADMIN, *((Kind.INVALID_QUERY,) if query else ()), *problems),
    )


def act(
    operation_id: str,
    summary: str,
    description: str,
    body: tuple[str, Json],
    model: str,
    example: Json,
    *problems: Kind,
    path: tuple[str, ...],
    status: str = "200",
) -> Operation:
    """Return an operation that is written down in the audit log."""
    return Operation(
        id=operation_id,
        tag="admin",
        summary=summary,
        description=description,
        parameters=[_IN_PATH[name] for name in path],
        body=content(*body),
        answers={status: answer(f"{summary}.", model, example)},
        problems=(*_ADMIN, *_ACTS, *problems),
    )


def _on_queue(
    verb: str, summary: str, description: str, body: tuple[str, Json] | None = None
) -> Operation:
    given = body or ("ActionBody", {"reason": "the gateway changes its certificate"})
    return act(
        f"{verb}Queue",
        summary,
        description,
        given,
        "QueueSummary",
        as_json(examples.SUMMARY),
        Kind.QUEUE_NOT_FOUND,
        path=("queue",),
    )


def _on_job(
    verb: str,
    summary: str,
    description: str,
    *problems: Kind,
    body: tuple[str, Json] = ("ActionBody", {"reason": "the gateway is back"}),
) -> Operation:
    return act(
        f"{verb}Job",
        summary,
        description,
        body,
        "JobDone",
        {"status": "done", "queue": examples.QUEUE, "id": examples.JOB},
        Kind.QUEUE_NOT_FOUND,
        Kind.JOB_NOT_FOUND,
        *problems,
        path=("queue", "jobId"),
    )


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


def _on_group(verb: str, summary: str, description: str) -> Operation:
    operation = act(
        f"{verb}Group",
        summary,
        description,
        ("BulkBody", {"reason": "the gateway is back", "perSecond": 50}),
        "BulkAction",
        as_json(replace(examples.RUNNING, done=0, skipped={})),
        Kind.FAILURE_GROUP_NOT_FOUND,
        path=("fingerprint",),
        status="202",
    )
    operation.answers["202"]["headers"] = {
        "Location": header("Where its progress is", format="uri-reference")
    }
    return operation


_REMOVED = as_json(Removed(500, 0))

ADMIN_PATHS: dict[str, dict[str, Operation]] = {
    "/admin/api/queues": {
        "get": look(
            "listQueues",
            "Every known queue",
            "Those of the contract, and every other that a worker is on.",
            "QueueList",
            {"queues": [as_json(examples.SUMMARY)]},
            *_REDIS,
        )
    },
    "/admin/api/queues/{queue}": {
        "get": look(
            "getQueue",
            "How a queue is",
            "Also one that nobody works on.",
            "QueueSummary",
            as_json(examples.SUMMARY),
            Kind.QUEUE_NOT_FOUND,
            *_REDIS,
            path=("queue",),
        )
    },
    "/admin/api/queues/{queue}/pause": {
        "post": _on_queue(
            "pause", "Pause a queue", "No worker starts a job of it, in any language."
        )
    },
    "/admin/api/queues/{queue}/resume": {
        "post": _on_queue("resume", "Resume a queue", "Workers start jobs of it again.")
    },
    "/admin/api/queues/{queue}/rate-limit": {
        "post": _on_queue(
            "limit",
            "Limit how many jobs start in a time",
            "Over all workers, in any language. `null` takes the limit off.",
            ("RateLimitBody", {"rateLimit": {"max": 100, "durationMs": 1000}, "reason": ""}),
        )
    },
    "/admin/api/queues/{queue}/concurrency": {
        "post": _on_queue(
            "limitConcurrencyOf",
            "Limit how many jobs run at once",
            "Over all workers, in any language. `null` takes the limit off.",
            ("ConcurrencyBody", {"concurrency": 20, "reason": ""}),
        )
    },
    "/admin/api/queues/{queue}/drain": {
        "post": act(
            "drainQueue",
            "Remove the jobs that wait",
            "What runs and what ended stays. Ask again while some are `left`. The reconciler "
            "adds again what an open order needs.",
            ("DrainBody", {"reason": "added twice", "delayed": False, "limit": 10_000}),
            "Removed",
            _REMOVED,
            Kind.QUEUE_NOT_FOUND,
            path=("queue",),
        )
    },
    "/admin/api/queues/{queue}/clean": {
        "post": act(
            "cleanQueue",
            "Remove jobs that ended",
            "What is known of their failures stays.",
            ("CleanBody", {"reason": "", "state": "failed", "olderThanS": 3_600}),
            "Removed",
            _REMOVED,
            Kind.QUEUE_NOT_FOUND,
            path=("queue",),
        )
    },
    "/admin/api/queues/{queue}/jobs": {
        "get": look(
            "listJobs",
            "A page of the jobs in one state",
            "Those that wait, are delayed or run in the order of their turn, ended ones newest "
            "first.",
            "JobPage",
            as_json(JobPage(examples.QUEUE, "failed", 0, 1, [examples.FAILED_JOB])),
            Kind.QUEUE_NOT_FOUND,
            Kind.JOB_STATE_NOT_FOUND,
            *_REDIS,
            path=("queue",),
            query=requests.JobsQuery,
        )
    },
    "/admin/api/queues/{queue}/jobs/{jobId}": {
        "get": look(
            "getJob",
            "A job in full",
            "Its data, options, log, stack and every attempt that failed; what is personal or "
            "secret is masked.",
            "JobDetails",
            as_json(examples.DETAILS),
            Kind.QUEUE_NOT_FOUND,
            Kind.JOB_NOT_FOUND,
            *_REDIS,
            *_POSTGRES,
            path=("queue", "jobId"),
        )
    },
    "/admin/api/queues/{queue}/jobs/{jobId}/retry": {
        "post": _on_job(
            "retry",
            "Run a job again",
            "One that failed or completed, its attempts counted anew; with `data`, with these.",
            Kind.JOB_IS_RUNNING,
            Kind.JOB_NOT_IN_STATE,
            Kind.INVALID_JOB_DATA,
            body=("RetryBody", {"reason": "the gateway is back", "data": None}),
        )
    },
    "/admin/api/queues/{queue}/jobs/{jobId}/promote": {
        "post": _on_job(
            "promote",
            "Let a delayed job wait for its turn now",
            "Its attempts are as they were.",
            Kind.JOB_IS_RUNNING,
            Kind.JOB_NOT_IN_STATE,
        )
    },
    "/admin/api/queues/{queue}/jobs/{jobId}/remove": {
        "post": _on_job(
            "remove",
            "Remove a job",
            "Wherever it is, unless it runs. The reconciler adds again what an open order needs.",
            Kind.JOB_IS_RUNNING,
            Kind.JOB_OF_SCHEDULE,
        )
    },
    "/admin/api/queues/{queue}/jobs/{jobId}/move-to-waiting": {
        "post": _on_job(
            "moveToWaiting",
            "Let a job wait for its turn",
            "One that ended or is delayed, or that was left by a worker which died.",
            Kind.JOB_IS_RUNNING,
            Kind.JOB_NOT_IN_STATE,
        )
    },
    "/admin/api/failures": {
        "get": look(
            "listFailures",
            "What failed, in groups",
            "The group that was seen last comes first.",
            "GroupList",
            {"groups": [as_json(examples.FAILURES)]},
            Kind.QUEUE_NOT_FOUND,
            *_REDIS,
            *_POSTGRES,
            query=requests.GroupsQuery,
        )
    },
    "/admin/api/failures/{fingerprint}": {
        "get": look(
            "getFailures",
            "One group, and its failures",
            "The newest failure comes first.",
            "GroupPage",
            {"group": as_json(examples.FAILURES), "failures": [as_json(examples.FAILURE)]},
            Kind.FAILURE_GROUP_NOT_FOUND,
            *_POSTGRES,
            path=("fingerprint",),
            query=requests.BeforeQuery,
        )
    },
    "/admin/api/failures/{fingerprint}/dry-run": {
        "get": look(
            "tryGroup",
            "What a retry or discard of the group would do",
            "Nothing is changed.",
            "DryRun",
            as_json(examples.DRY_RUN),
            Kind.FAILURE_GROUP_NOT_FOUND,
            *_REDIS,
            *_POSTGRES,
            path=("fingerprint",),
        )
    },
    "/admin/api/failures/{fingerprint}/retry": {
        "post": _on_group(
            "retry",
            "Run all jobs of a group again",
            "In the background, at a rate: only those that are still failed.",
        )
    },
    "/admin/api/failures/{fingerprint}/discard": {
        "post": _on_group(
            "discard",
            "Remove all jobs of a group",
            "In the background, at a rate: only those that are still failed. What is known of "
            "their failures stays.",
        )
    },
    "/admin/api/bulk": {
        "get": look(
            "listBulkActions",
            "Retries and discards of groups",
            "Under way and ended, the newest first.",
            "BulkList",
            {"actions": [as_json(examples.RUNNING)]},
            *_POSTGRES,
            query=requests.LimitQuery,
        )
    },
    "/admin/api/bulk/{actionId}": {
        "get": look(
            "getBulkAction",
            "How far a bulk action is",
            "And what it was not done to, and why.",
            "BulkAction",
            as_json(examples.RUNNING),
            Kind.BULK_ACTION_NOT_FOUND,
            *_POSTGRES,
            path=("actionId",),
        )
    },
    "/admin/api/bulk/{actionId}/stop": {
        "post": act(
            "stopBulkAction",
            "Stop a bulk action",
            "It stops within a second or so, wherever it runs; what was done stays done.",
            ("ActionBody", {"reason": "the gateway is down again"}),
            "BulkAction",
            as_json(replace(examples.RUNNING, stop_wanted=True)),
            Kind.BULK_ACTION_NOT_FOUND,
            Kind.BULK_ACTION_ENDED,
            path=("actionId",),
            status="202",
        )
    },
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
            *_REDIS,
            *_POSTGRES,
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
                _IN_PATH["orderId"],
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
            *_REDIS,
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
            *_POSTGRES,
            query=requests.AuditQuery,
        )
    },
}
