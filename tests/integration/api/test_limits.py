"""What clients can make the API hold: MAX_BODY_BYTES of a body, CHECKOUTS_IN_FLIGHT at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orderflow.settings import Settings

LIMIT = 1_024


@pytest.fixture
async def small(serve: Any, settings: Settings, resources: Any) -> AsyncIterator[Any]:
    """The app with the smallest limit there is."""
    assert resources
    async with serve(settings.model_copy(update={"max_body_bytes": LIMIT})) as api:
        yield api


def body_of(size: int) -> bytes:
    body = {
        "items": [{"sku": "pot-glass", "quantity": 1}],
        "paymentMethod": "card",
        "contact": {"email": "ada@shop.example"},
    }
    return json.dumps(body).encode().ljust(size)


async def chunks(body: bytes, read: list[int], size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        read.append(start)
        yield body[start : start + size]


async def test_a_body_of_the_limit_is_taken(small: Any) -> None:
    assert (await small.post(body_of(LIMIT))).status_code == 202


async def test_a_body_over_the_limit_is_refused(small: Any) -> None:
    response = await small.post(body_of(LIMIT + 1))

    assert response.status_code == 413
    assert response.json()["type"] == "urn:orderflow:problem:body-too-large"
    assert "1024" in response.json()["detail"]


async def test_an_announced_length_is_refused_before_anything_is_read(small: Any) -> None:
    read: list[int] = []
    response = await small.post(chunks(body_of(LIMIT + 1), read), **{"Content-Length": "1025"})

    assert response.status_code == 413
    assert len(read) <= 1


async def test_chunks_within_the_limit_are_taken(small: Any) -> None:
    assert (await small.post(chunks(body_of(LIMIT), []))).status_code == 202


@pytest.mark.parametrize("announced", [None, "10", "ten", "-1", "9" * 5_000])
async def test_chunks_over_the_limit_are_refused_while_they_come(
    small: Any, announced: str | None
) -> None:
    read: list[int] = []
    headers = {"Content-Length": announced} if announced else {}
    response = await small.post(chunks(body_of(50 * LIMIT), read), **headers)

    assert response.status_code == 413
    assert len(read) <= LIMIT // 100 + 2


async def test_more_checkouts_than_may_be_under_way_are_to_come_again(
    serve: Any, settings: Settings, resources: Any, sql: Any
) -> None:
    assert resources
    async with serve(settings.model_copy(update={"checkouts_in_flight": 2})) as api:
        async with sql.transaction():
            await sql.execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
            taken = [asyncio.create_task(api.checkout()) for _ in range(2)]
            await asyncio.sleep(0)
            refused = await api.checkout()
            others = await api.get("/orders")
        answers = await asyncio.gather(*taken)
        again = await api.checkout()

    assert (refused.status_code, api.problem(refused)) == (503, "too-many-checkouts")
    assert refused.headers["Retry-After"] == "1"
    assert others.status_code == 200
    assert [answer.status_code for answer in (*answers, again)] == [202] * 3


async def _age(sql: Any, orders: int, seconds: int, status: str = "pending") -> None:
    """Make so many of the orders that seconds old."""
    await sql.execute(
        """
        UPDATE orders SET created_at = now() - make_interval(secs => $2), status = $3
        WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT $1)
        """,
        orders,
        seconds,
        status,
    )


@pytest.fixture
async def strict(serve: Any, settings: Settings, resources: Any) -> AsyncIterator[Any]:
    """The app that takes nothing while ten orders wait for longer than a minute."""
    assert resources
    async with serve(settings.model_copy(update={"shed_after_s": 60})) as api:
        yield api


async def test_checkouts_are_shed_while_orders_wait_too_long_and_taken_again_then(
    strict: Any, sql: Any
) -> None:
    async def becomes(status: int) -> Any:
        async with asyncio.timeout(10):
            while (response := await strict.checkout(key="one")).status_code != status:
                await asyncio.sleep(0.05)
        return response

    for _ in range(9):
        assert (await strict.checkout()).status_code == 202
    await becomes(202)
    await _age(sql, 10, 61)
    refused = await becomes(503)
    assert strict.problem(refused) == "payments-behind"
    assert refused.headers["Retry-After"] == "10"
    assert (await strict.get("/orders")).status_code == 200
    await _age(sql, 1, 61, "confirmed")
    assert (await becomes(202)).headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    ("seconds", "status"), [(50, "pending"), (61, "confirmed"), (2 * 3_600, "pending")]
)
async def test_nothing_is_shed_for_orders_that(
    strict: Any, serve: Any, settings: Settings, sql: Any, seconds: int, status: str
) -> None:
    """Are young, wait for their mail only, or are stuck since long ago."""
    for _ in range(12):
        await strict.checkout()
    await _age(sql, 12, seconds, status)
    async with serve(settings.model_copy(update={"shed_after_s": 60})) as fresh:
        assert (await fresh.checkout()).status_code == 202


async def test_nothing_is_shed_when_the_backlog_cannot_be_looked_at(
    strict: Any, sql: Any, settings: Settings, serve: Any
) -> None:
    for _ in range(12):
        await strict.checkout()
    await _age(sql, 12, 61)
    tight = settings.model_copy(update={"shed_after_s": 60, "database_timeout_ms": 300})
    async with serve(tight) as fresh, sql.transaction():
        await sql.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        answer = await fresh.checkout()
    assert fresh.problem(answer) == "database-unavailable"
