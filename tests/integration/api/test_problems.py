"""Errors that belong to no one endpoint: what clients read, and what they never read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from orderflow.api.problems import Kind, ProblemAnswers, problem_of
from orderflow.db.migrate import migrate
from orderflow.errors import DatabaseRefused, InvalidCatalogue, OrderflowError
from orderflow.sandbox.servers import free_port, start_postgres
from orderflow.setting_types import PostgresUrl
from orderflow.settings import Settings

Sql = asyncpg.Connection


@pytest.mark.parametrize("path", ["/", "/nothing", "/checkout/", "/orders/", "/orders/a/b"])
async def test_unknown_paths(api: Any, path: str) -> None:
    response = await api.get(path)

    assert response.status_code == 404
    assert response.json() == {
        "type": "urn:orderflow:problem:not-found",
        "title": "There is nothing here",
        "status": 404,
        "detail": "No endpoint has this path.",
        "instance": path,
    }


async def test_the_instance_is_a_uri_whatever_the_path(api: Any) -> None:
    response = await api.get("/n%C3%B6%20%22%0A")

    assert response.json()["instance"] == "/n%C3%B6%20%22%0A"


async def test_a_host_that_is_no_host_breaks_nothing(api: Any, sql: Sql) -> None:
    nonsense = api.bearer() | {"Host": "[::1"}

    assert (await api.client.get("/nothing", headers=nonsense)).status_code == 404
    assert (await api.client.get("/orders", headers=nonsense)).status_code == 200
    await sql.execute("DROP VIEW order_details")
    assert (await api.client.get("/orders", headers=nonsense)).status_code == 500


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/checkout", {"POST"}),
        ("DELETE", "/checkout", {"POST"}),
        ("OPTIONS", "/checkout", {"POST"}),
        ("POST", "/orders", {"GET", "HEAD"}),
        ("PATCH", "/orders/x", {"GET", "HEAD"}),
        ("PUT", "/livez", {"GET", "HEAD"}),
    ],
)
async def test_other_methods(api: Any, method: str, path: str, allowed: set[str]) -> None:
    response = await api.client.request(method, path)

    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert response.json()["type"] == "urn:orderflow:problem:method-not-allowed"


async def test_a_fault_of_ours_says_nothing_but_is_logged(api: Any, sql: Sql) -> None:
    await sql.execute("DROP VIEW order_details")

    with capture_logs() as lines:
        response = await api.get("/orders/some-order?x=secret")

    assert response.status_code == 500
    assert response.json() == {
        "type": "urn:orderflow:problem:internal-error",
        "title": "Something went wrong",
        "status": 500,
        "detail": "The fault is on our side, and is logged.",
        "instance": "/orders/some-order",
    }
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("request failed", "error")
    assert (line["method"], line["path"]) == ("GET", "/orders/some-order")
    assert isinstance(line["exc_info"], DatabaseRefused)
    assert line["exc_info"].reason == "UndefinedTableError, 42P01"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("secret"), OrderflowError(), InvalidCatalogue(path="/etc", line=1, reason="x")],
)
def test_errors_that_are_no_clients_say_nothing(error: Exception) -> None:
    problem = problem_of(error)

    assert problem.kind is Kind.INTERNAL_ERROR
    assert str(problem) == "The fault is on our side, and is logged."


async def test_without_postgres_clients_are_asked_to_come_again(
    serve: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("own-postgres")
    port = free_port()
    postgres = start_postgres(folder, port)
    own = settings.model_copy(update={"database_url": PostgresUrl(postgres.url)})
    try:
        await migrate(postgres.url)
        async with serve(own) as api:
            assert (await api.get("/orders")).status_code == 200
            postgres.stop()
            with capture_logs() as lines:
                responses = [
                    await api.checkout(),
                    await api.get("/orders"),
                    await api.get("/orders/x"),
                ]
            postgres = start_postgres(folder, port)
            recovered = await api.get("/orders")
    finally:
        postgres.stop()

    for response in responses:
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert response.json()["type"] == "urn:orderflow:problem:database-unavailable"
        assert "127.0.0.1" not in response.text
    assert [line["event"] for line in lines] == ["database unavailable"] * 3
    assert recovered.status_code == 200


async def test_a_database_that_is_too_slow_is_unavailable(serve: Any, settings: Settings) -> None:
    narrow = settings.model_copy(update={"database_pool_size": 1, "database_timeout_ms": 100})
    async with serve(narrow) as api:
        blocker = await asyncpg.connect(settings.database_dsn)
        await blocker.execute("BEGIN; LOCK TABLE orders")
        response = await api.get("/orders")
        await blocker.close()

    assert response.status_code == 503


async def test_a_client_that_leaves_is_nobodys_fault(api: Any, sql: Sql) -> None:
    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(f"there is nobody to send {message} to")

    headers = api.bearer() | {"Content-Type": "application/json"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/checkout",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    with capture_logs() as lines:
        await api.client._transport.app(scope, leave, send)

    assert [line["log_level"] for line in lines] == ["debug"]
    assert await sql.fetchval("SELECT count(*) FROM orders") == 0


async def test_an_answer_that_began_cannot_become_a_problem() -> None:
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError, match="too late"):
        await ProblemAnswers(app)({"type": "http"}, asyncio.Queue().get, send)
    assert len(sent) == 1


def test_types_are_stable() -> None:
    # Clients go by these: a name may be added, and never be changed.
    assert {kind.label: kind.status for kind in Kind} == {
        "malformed-request": 400,
        "not-json": 400,
        "invalid-header": 400,
        "invalid-query": 400,
        "unauthenticated": 401,
        "forbidden": 403,
        "not-found": 404,
        "order-not-found": 404,
        "queue-not-found": 404,
        "job-not-found": 404,
        "job-state-not-found": 404,
        "failure-group-not-found": 404,
        "bulk-action-not-found": 404,
        "webhook-endpoint-not-found": 404,
        "webhook-delivery-not-found": 404,
        "method-not-allowed": 405,
        "request-timeout": 408,
        "out-of-stock": 409,
        "illegal-transition": 409,
        "nothing-to-refund": 409,
        "refund-too-large": 409,
        "user-has-open-orders": 409,
        "job-is-running": 409,
        "job-not-in-state": 409,
        "job-of-schedule": 409,
        "bulk-action-ended": 409,
        "body-too-large": 413,
        "unsupported-media-type": 415,
        "invalid-body": 422,
        "invalid-job-data": 422,
        "unknown-products": 422,
        "mixed-currencies": 422,
        "total-too-large": 422,
        "idempotency-key-reused": 422,
        "too-many-requests": 429,
        "too-many-streams-of-user": 429,
        "head-too-large": 431,
        "internal-error": 500,
        "webhooks-not-set-up": 503,
        "database-unavailable": 503,
        "redis-unavailable": 503,
        "too-many-checkouts": 503,
        "too-many-connections": 503,
        "too-many-streams": 503,
        "payments-behind": 503,
        "signing-keys-unavailable": 503,
    }
