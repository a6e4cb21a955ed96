"""Failures, and what is done to whole groups of them, in the OpenAPI document."""

from __future__ import annotations

from dataclasses import replace

from orderflow.api.admin import examples, requests
from orderflow.api.admin.describing import POSTGRES, REDIS, act, look
from orderflow.api.answers import as_json
from orderflow.api.operations import Operation, header
from orderflow.api.problems import Kind


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


FAILURE_PATHS: dict[str, dict[str, Operation]] = {
    "/admin/api/failures": {
        "get": look(
            "listFailures",
            "What failed, in groups",
            "The group that was seen last comes first.",
            "GroupList",
            {"groups": [as_json(examples.FAILURES)]},
            Kind.QUEUE_NOT_FOUND,
            *REDIS,
            *POSTGRES,
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
            *POSTGRES,
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
            *REDIS,
            *POSTGRES,
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
            *POSTGRES,
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
            *POSTGRES,
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
}
