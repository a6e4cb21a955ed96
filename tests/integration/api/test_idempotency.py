"""Idempotency-Key: a request may be sent again and again, and makes one order."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import asyncpg
import pytest
from tests.integration.api.conftest import BODY, count_orders

from orderflow.settings import Settings

Sql = asyncpg.Connection


async def test_same_key_is_answered_again(api: Any, sql: Sql) -> None:
    first = await api.checkout(key="k-1")
    again = await api.checkout(key="k-1")

    assert again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await count_orders(sql) == 1


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("k-1", '"k-1"'),
        ('"k-1"', "  k-1\t"),
        (r'"say \"hi\" \\o/"', r'"say \"hi\" \\o/"'),
        (r'"a\\b"', r"a\b"),
        ('a "quoted" part', r'"a \"quoted\" part"'),
        ("k" * 255, '"' + "k" * 255 + '"'),
    ],
)
async def test_a_key_is_the_same_however_it_is_spelled(
    api: Any, sql: Sql, first: str, again: str
) -> None:
    await api.checkout(key=first)
    response = await api.checkout(key=again)

    assert response.headers.get("Idempotent-Replayed") == "true"
    assert await count_orders(sql) == 1


async def test_the_same_request_may_be_spelled_in_another_way(api: Any) -> None:
    body = json.dumps(BODY).encode()
    spelled = json.dumps(dict(reversed(BODY.items())), indent=4).encode()

    await api.post(body, **{"Idempotency-Key": "k-1"})
    response = await api.post(spelled, **{"Idempotency-Key": "k-1"})

    assert response.headers["Idempotent-Replayed"] == "true"


async def test_a_key_belongs_to_its_user(api: Any, sql: Sql) -> None:
    mine = await api.checkout(key="k-1", user="user-1")
    theirs = await api.checkout(key="k-1", user="user-2")

    assert theirs.status_code == 202
    assert theirs.json()["orderId"] != mine.json()["orderId"]
    assert await count_orders(sql) == 2


async def test_a_key_is_not_for_another_body(api: Any, sql: Sql) -> None:
    await api.checkout(key="k-1")
    response = await api.checkout(key="k-1", paymentMethod="cash")

    assert (response.status_code, api.problem(response)) == (422, "idempotency-key-reused")
    assert api.faults(response) == [("Idempotency-Key", "same-body")]
    assert await count_orders(sql) == 1


async def test_requests_with_one_key_at_once_make_one_order(api: Any, sql: Sql) -> None:
    answers = await asyncio.gather(*(api.checkout(key="k-1") for _ in range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["orderId"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 19
    assert await count_orders(sql) == 1


async def test_a_key_that_another_process_writes_is_waited_for(api: Any, sql: Sql) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(
        "INSERT INTO idempotency_keys VALUES ('user-1', 'k-1', '\\x00', '{}', now() + '1 hour')"
    )
    waiting = asyncio.create_task(api.checkout(key="k-1"))
    while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.001)
    innocent = await api.checkout(key="k-2")
    await transaction.commit()
    response = await waiting

    assert innocent.status_code == 202
    assert (response.status_code, api.problem(response)) == (422, "idempotency-key-reused")


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("", "length 1..255"),
        ('""', "length 1..255"),
        ("k" * 256, "length 1..255"),
        ('"' + "k" * 256 + '"', "length 1..255"),
        ('"open', "structured-field-string"),
        ('"', "structured-field-string"),
        ('"a"b"', "structured-field-string"),
        (r'"a\n"', "structured-field-string"),
        ('"a\\"', "structured-field-string"),
        ('"k";p=1', "structured-field-string"),
        ("a\tb", "printable-ascii"),
        ('"a\x7fb"', "printable-ascii"),
        ("schlüssel", "printable-ascii"),
    ],
)
async def test_unusable_keys_are_named(api: Any, key: str, rule: str) -> None:
    headers = {**api.bearer(), "Idempotency-Key": key.encode("latin-1")}
    response = await api.client.post("/checkout", headers=headers, json=BODY)

    assert (response.status_code, api.problem(response)) == (400, "invalid-header")
    assert api.faults(response) == [("Idempotency-Key", rule)]


async def test_only_one_key_may_be_sent(api: Any) -> None:
    headers = [*api.bearer().items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    response = await api.client.post("/checkout", headers=headers, json=BODY)

    assert (response.status_code, api.faults(response)) == (400, [("Idempotency-Key", "once")])


async def test_a_shop_may_require_the_key(serve: Any, settings: Settings) -> None:
    async with serve(settings.model_copy(update={"idempotency_key_required": True})) as api:
        response = await api.checkout()

    assert (response.status_code, api.faults(response)) == (400, [("Idempotency-Key", "required")])


async def test_a_hundred_requests_with_one_key_make_one_order(api: Any, sql: Sql) -> None:
    responses = await asyncio.gather(*(api.checkout(key="k-1") for _ in range(100)))

    statuses = Counter(response.status_code for response in responses)
    assert statuses.keys() <= {202, 409}
    taken = [response for response in responses if response.status_code == 202]
    assert len({response.json()["orderId"] for response in taken}) == 1
    assert sum("Idempotent-Replayed" not in response.headers for response in taken) == 1
    assert await count_orders(sql) == 1
