"""The admin API over HTTP; that each answer is in the reference is looked at for every one."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from orderflow.bull.worker import FailedAttempt
from orderflow.contract import QueueName
from orderflow.operations.failures import fingerprint_of, record_failure
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings

QUEUES = "/admin/api/queues"
PAYMENTS = f"{QUEUES}/{QueueName.PAYMENTS}"


class Admin:
    """An admin who calls the API."""

    def __init__(self, api: Any) -> None:
        self._api = api

    async def get(self, path: str, **query: Any) -> Any:
        headers = self._api.bearer("ada", admin=True)
        return await self._api.client.get(path, headers=headers, params=query)

    async def post(self, path: str, **body: Any) -> Any:
        headers = self._api.bearer("ada", admin=True)
        return await self._api.client.post(path, headers=headers, json=body)


@pytest.fixture
def admin(api: Any) -> Admin:
    return Admin(api)


async def add(resources: Resources, job_id: str, data: Any = None, **opts: Any) -> None:
    await resources.queues.queue(QueueName.PAYMENTS).add(
        "probe", data or {}, {"jobId": job_id} | opts
    )


async def test_a_queue_is_paused_and_resumed_and_that_is_written_down(admin: Admin) -> None:
    paused = await admin.post(f"{PAYMENTS}/pause", reason="the gateway moves")
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    seen = (await admin.get(QUEUES)).json()["queues"]
    assert [queue["paused"] for queue in seen] == [True, False, False]
    resumed = await admin.post(f"{PAYMENTS}/resume")
    assert resumed.json() == (await admin.get(PAYMENTS)).json()
    assert resumed.json()["paused"] is False

    actions = (await admin.get("/admin/api/audit")).json()["actions"]
    assert [(done["action"], done["reason"]) for done in actions] == [
        ("resume", ""),
        ("pause", "the gateway moves"),
    ]
    assert {(done["user"], done["via"], done["outcome"]) for done in actions} == {
        ("ada", "api", "done")
    }
    older = await admin.get("/admin/api/audit", before=actions[0]["id"], user="ada", action="pause")
    assert older.json()["actions"] == actions[1:]
    assert (await admin.get("/admin/api/audit", user="eve")).json()["actions"] == []


async def test_limits_are_set_and_taken_off(admin: Admin) -> None:
    rate = {"max": 5, "durationMs": 250}
    assert (await admin.post(f"{PAYMENTS}/rate-limit", rateLimit=rate)).json()["rateLimit"] == rate
    assert (await admin.post(f"{PAYMENTS}/concurrency", concurrency=3)).json()["concurrency"] == 3
    off = await admin.post(f"{PAYMENTS}/rate-limit", rateLimit=None)
    assert off.json()["rateLimit"] is None
    off = await admin.post(f"{PAYMENTS}/concurrency", concurrency=None)
    assert off.json()["concurrency"] is None


async def test_jobs_are_listed_shown_and_steered(
    admin: Admin, resources: Resources, redis: Redis, settings: Settings
) -> None:
    order_id = str(uuid4())
    await add(resources, "j1", {"orderId": order_id, "email": "ada@shop.example"}, delay=60_000)
    await add(resources, "j2")

    page = (await admin.get(f"{PAYMENTS}/jobs", state="delayed")).json()
    assert (page["total"], page["jobs"][0]["id"], page["jobs"][0]["orderId"]) == (1, "j1", order_id)
    assert page["jobs"][0]["dueAt"] is not None
    job = (await admin.get(f"{PAYMENTS}/jobs/j1")).json()
    assert job["data"] == {"orderId": order_id, "email": "***"}
    done = await admin.post(f"{PAYMENTS}/jobs/j1/promote", reason="now")
    assert done.json() == {"status": "done", "queue": QueueName.PAYMENTS, "id": "j1"}
    assert (await admin.get(f"{PAYMENTS}/jobs/j1")).json()["summary"]["state"] == "waiting"
    assert (await admin.get(f"{PAYMENTS}/jobs", start=1, limit=1)).json()["jobs"][0]["id"] == "j1"
    assert (await admin.post(f"{PAYMENTS}/jobs/j2/remove")).status_code == 200
    drained = await admin.post(f"{PAYMENTS}/drain", delayed=True)
    assert drained.json() == {"removed": 1, "left": 0}
    cleaned = await admin.post(f"{PAYMENTS}/clean", state="failed", olderThanS=0)
    assert cleaned.json() == {"removed": 0, "left": 0}
    assert redis.keys(f"{settings.queue_prefix}:{QueueName.PAYMENTS}:j*") == []


@pytest.mark.parametrize(
    ("path", "status", "problem", "said"),
    [
        (f"{QUEUES}/payments", 404, "queue-not-found", "payment-processing, notifications"),
        (f"{PAYMENTS}/jobs?state=done", 404, "job-state-not-found", "waiting, active, delayed"),
        (f"{PAYMENTS}/jobs/none", 404, "job-not-found", "no job 'none'"),
        (f"{PAYMENTS}/jobs/%00", 404, "job-not-found", "no job"),
        (f"{PAYMENTS}/jobs/wait", 404, "job-not-found", "no job 'wait'"),
        ("/admin/api/failures/none", 404, "failure-group-not-found", "'none'"),
        ("/admin/api/failures/%00/dry-run", 404, "failure-group-not-found", ""),
        ("/admin/api/failures?queue=payments", 404, "queue-not-found", "payment-processing"),
        ("/admin/api/bulk/none", 404, "bulk-action-not-found", "'none'"),
        ("/admin/api/bulk/019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b", 404, "bulk-action-not-found", ""),
        ("/admin/api/orders/none/story", 404, "order-not-found", "'none'"),
        (f"{PAYMENTS}/jobs?limit=0", 400, "invalid-query", "limit"),
        (f"{PAYMENTS}/jobs?start=-1&page=2", 400, "invalid-query", "start, page"),
        ("/admin/api/failures?withinS=soon", 400, "invalid-query", "withinS"),
        ("/admin/api/audit?before=99999999999999999999", 400, "invalid-query", "before"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value.rpartition("/")[2][:30],
)
async def test_what_is_asked_for_wrongly_is_told(
    api: Any, path: str, status: int, problem: str, said: str
) -> None:
    response = await api.client.get(path, headers=api.bearer("ada", admin=True))

    assert (response.status_code, api.problem(response)) == (status, problem)
    assert said in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        (f"{PAYMENTS}/pause", {"reason": 7}, ("/reason", "string")),
        (f"{PAYMENTS}/pause", {"because": "x"}, ("/because", "no-unknown-fields")),
        (f"{PAYMENTS}/pause", {"reason": "x" * 501}, ("/reason", "length-at-most 500")),
        (f"{PAYMENTS}/rate-limit", {}, ("/rateLimit", "required")),
        (f"{PAYMENTS}/concurrency", {"concurrency": 0}, ("/concurrency", "greater-than-equal 1")),
        (f"{PAYMENTS}/clean", {"state": "waiting", "olderThanS": 0}, ("/state", "literal-error")),
        ("/admin/api/orders/search", {"find": ""}, ("/find", "length-at-least 1")),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else None,
)
async def test_a_wrong_body_is_told_by_field_and_rule(
    admin: Admin, api: Any, path: str, body: Any, fault: tuple[str, str]
) -> None:
    response = await admin.post(path, **body)

    assert (response.status_code, api.problem(response)) == (422, "invalid-body")
    assert fault in api.faults(response)


async def test_what_cannot_be_done_to_a_job_is_a_conflict(
    admin: Admin, api: Any, resources: Resources
) -> None:
    await add(resources, "j1", {"orderId": "o-1"})

    for action in ("retry", "promote", "move-to-waiting"):
        response = await admin.post(f"{PAYMENTS}/jobs/j1/{action}")
        assert (response.status_code, api.problem(response)) == (409, "job-not-in-state")
        assert "'j1' is waiting" in response.json()["detail"]
    wrong = await resources.queues.queue(QueueName.PAYMENTS).add("process-payment", {"orderId": 1})
    response = await admin.post(f"{PAYMENTS}/jobs/{wrong.id}/retry", data={"orderId": "o-1"})
    assert (response.status_code, api.problem(response)) == (422, "invalid-job-data")
    assert "paymentId: Field required" in response.json()["detail"]


async def test_a_group_is_tried_retried_and_stopped(
    admin: Admin, api: Any, resources: Resources, redis: Redis, settings: Settings
) -> None:
    for n in range(5):
        await add(resources, f"j{n}")
        error = ValueError(f"no {n}")
        attempt = FailedAttempt(QueueName.PAYMENTS, "probe", f"j{n}", {}, 1, True, error)
        await record_failure(attempt, "worker-1", db=resources.db)
    prefix = f"{settings.queue_prefix}:{QueueName.PAYMENTS}"
    redis.delete(f"{prefix}:wait")
    redis.zadd(f"{prefix}:failed", {f"j{n}": n for n in range(5)})
    fingerprint = fingerprint_of(QueueName.PAYMENTS, "ValueError", "", "no 1")
    path = f"/admin/api/failures/{fingerprint}"

    (group,) = (await admin.get("/admin/api/failures", withinS=60)).json()["groups"]
    assert (group["fingerprint"], group["failures"]) == (fingerprint, 5)
    assert len((await admin.get(path, limit=2)).json()["failures"]) == 2
    assert (await admin.get(f"{path}/dry-run")).json()["would"] == 5
    begun = await admin.post(f"{path}/retry", perSecond=1, reason="again")
    assert begun.status_code == 202
    stopped = await admin.post(f"{begun.headers['Location']}/stop")
    assert stopped.json()["stopWanted"] is True
    async with asyncio.timeout(20):
        while (bulk := (await admin.get(begun.headers["Location"])).json())["state"] == "running":
            await asyncio.sleep(0.05)
    assert bulk["state"] == "stopped"
    assert 1 <= bulk["done"] < 5
    again = await admin.post(f"{begun.headers['Location']}/stop")
    assert (again.status_code, api.problem(again)) == (409, "bulk-action-ended")
    assert (await admin.get("/admin/api/bulk")).json()["actions"] == [bulk]


async def test_an_app_that_ends_stops_what_it_has_begun(
    api: Any, admin: Admin, serve: Any, settings: Settings, resources: Resources, redis: Redis
) -> None:
    for n in range(3):
        await add(resources, f"j{n}")
        attempt = FailedAttempt(QueueName.PAYMENTS, "p", f"j{n}", {}, 1, True, ValueError("no"))
        await record_failure(attempt, "worker-1", db=resources.db)
    prefix = f"{settings.queue_prefix}:{QueueName.PAYMENTS}"
    redis.delete(f"{prefix}:wait")
    redis.zadd(f"{prefix}:failed", {f"j{n}": n for n in range(3)})
    fingerprint = fingerprint_of(QueueName.PAYMENTS, "ValueError", "", "no")
    async with serve(settings) as another:
        begun = await Admin(another).post(f"/admin/api/failures/{fingerprint}/discard", perSecond=1)
        assert begun.status_code == 202

    bulk = (await admin.get(begun.headers["Location"])).json()
    assert bulk["state"] == "stopped"
    assert api


async def test_orders_are_searched_and_told(admin: Admin, place: Any) -> None:
    order_id = await place()

    found = await admin.post("/admin/api/orders/search", find="ADA@shop.example")
    (order,) = found.json()["orders"]
    assert (order["id"], order["foundBy"], order["total"]) == (order_id, "e-mail", "68.00")
    assert "ada@shop.example" not in found.text
    story = (await admin.get(f"/admin/api/orders/{order_id}/story")).json()
    assert [event["kind"] for event in story["events"]] == ["order", "job"]
    assert (await admin.get("/admin/api/workers")).json() == {"workers": [], "unclaimed": []}


async def test_without_redis_it_says_so(serve: Any, settings: Settings) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    away = settings.model_copy(update={"redis_url": type(settings.redis_url)(url)})
    async with serve(away) as api:
        response = await Admin(api).get(QUEUES)
        assert (response.status_code, api.problem(response)) == (503, "redis-unavailable")
        assert response.headers["Retry-After"] == "1"
        response = await Admin(api).post(f"{PAYMENTS}/pause")
        assert (response.status_code, api.problem(response)) == (503, "redis-unavailable")
        actions = (await Admin(api).get("/admin/api/audit")).json()["actions"]
        assert [(done["outcome"], done["details"]) for done in actions] == [
            ("failed", {"why": "ConnectionError"})
        ]


async def test_without_postgresql_nothing_is_done(
    serve: Any, settings: Settings, resources: Resources
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/none"
    away = settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    async with serve(away) as api:
        response = await Admin(api).post(f"{PAYMENTS}/pause")
        assert (response.status_code, api.problem(response)) == (503, "database-unavailable")
    assert not await resources.queues.queue(QueueName.PAYMENTS).isPaused()
