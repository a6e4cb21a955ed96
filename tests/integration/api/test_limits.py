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
