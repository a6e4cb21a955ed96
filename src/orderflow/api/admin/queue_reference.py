"""Queues and jobs in the OpenAPI document."""

from __future__ import annotations

from orderflow.api.admin import examples, requests
from orderflow.api.admin.describing import POSTGRES, REDIS, act, look
from orderflow.api.answers import Json, as_json
from orderflow.api.operations import Operation
from orderflow.api.problems import Kind
from orderflow.operations.jobs import JobPage
from orderflow.operations.queues import Removed


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


_REMOVED = as_json(Removed(500, 0))

QUEUE_PATHS: dict[str, dict[str, Operation]] = {
    "/admin/api/queues": {
        "get": look(
            "listQueues",
            "Every known queue",
            "Those of the contract, and every other that a worker is on.",
            "QueueList",
            {"queues": [as_json(examples.SUMMARY)]},
            *REDIS,
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
            *REDIS,
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
            *REDIS,
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
            *REDIS,
            *POSTGRES,
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
}
