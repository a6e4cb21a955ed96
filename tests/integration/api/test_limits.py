"""Bodies over MAX_BODY_BYTES: refused by their announced length, or when they turn out longer."""

from __future__ import annotations

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
