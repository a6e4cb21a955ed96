"""POST /checkout: what it takes, what it refuses, and what holds when many ask at once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.integration.api.conftest import BODY, count_orders

from orderflow.bull.states import JobState
from orderflow.contract import payment_job
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, start_redis
from orderflow.setting_types import RedisUrl
from orderflow.settings import Settings

Sql = asyncpg.Connection

#: Whether somebody waits for a row that this transaction has changed.
WAITING = """
SELECT count(*) FROM pg_locks l
WHERE NOT l.granted AND l.locktype = 'transactionid'
  AND l.transactionid::text::bigint = txid_current()
"""


async def test_order_is_kept_priced_and_queued(api: Any, sql: Sql, resources: Resources) -> None:
    response = await api.checkout()

    assert response.status_code == 202
    receipt = response.json()
    assert response.headers["Location"] == f"/orders/{receipt['orderId']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Idempotent-Replayed" not in response.headers
    assert (receipt["status"], receipt["total"], receipt["currency"]) == ("pending", "68.00", "EUR")
    row = await sql.fetchrow("SELECT * FROM payments WHERE order_id = $1", receipt["orderId"])
    assert str(row["id"]) == receipt["paymentId"]
    job = payment_job(receipt["paymentId"], receipt["orderId"], "card", row["amount"])
    assert await resources.queues.states([job]) == [JobState.LIVE]


async def test_location_leads_to_the_order(api: Any) -> None:
    receipt = await api.checkout()

    order = await api.get(receipt.headers["Location"])

    assert order.status_code == 200
    assert order.json()["orderId"] == receipt.json()["orderId"]


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"items": []}, "/items", "items-at-least 1"),
        ({"items": BODY["items"] * 101}, "/items", "items-at-most 100"),
        ({"items": "pot-glass"}, "/items", "array"),
        ({"items": None}, "/items", "array"),
        ({"items": ["pot-glass"]}, "/items/0", "object"),
        ({"items": [{"sku": "pot-glass"}]}, "/items/0/quantity", "required"),
        ({"items": [{"sku": "a", "quantity": 0}]}, "/items/0/quantity", "greater-than-equal 1"),
        ({"items": [{"sku": "a", "quantity": 1001}]}, "/items/0/quantity", "less-than-equal 1000"),
        (
            {"items": [{"sku": "a", "quantity": 10**60}]},
            "/items/0/quantity",
            "less-than-equal 1000",
        ),
        ({"items": [{"sku": "a", "quantity": 1.5}]}, "/items/0/quantity", "integer"),
        ({"items": [{"sku": "a", "quantity": "1"}]}, "/items/0/quantity", "integer"),
        ({"items": [{"sku": "a", "quantity": True}]}, "/items/0/quantity", "integer"),
        ({"items": [{"sku": "", "quantity": 1}]}, "/items/0/sku", "length-at-least 1"),
        ({"items": [{"sku": "a" * 65, "quantity": 1}]}, "/items/0/sku", "length-at-most 64"),
        ({"items": [{"sku": 7, "quantity": 1}]}, "/items/0/sku", "string"),
        (
            {"items": [{"sku": "a\0", "quantity": 1}]},
            "/items/0/sku",
            "no-control-characters",
        ),
        (
            {"items": [{"sku": "a", "quantity": 1, "price": "0.01"}]},
            "/items/0/price",
            "no-unknown-fields",
        ),
        ({"paymentMethod": "gold"}, "/paymentMethod", "one-of card, online, wallet, cash"),
        ({"payment_token": "tok"}, "/payment_token", "no-unknown-fields"),
        ({"a/b~c": 1}, "/a~1b~0c", "no-unknown-fields"),
        ({"paymentToken": "t\n"}, "/paymentToken", "no-control-characters"),
        ({"contact": {}}, "/contact/email", "required"),
        ({"contact": {"email": "ada"}}, "/contact/email", "email"),
        ({"contact": {"email": "a\0b@shop.example"}}, "/contact/email", "email"),
        ({"contact": {"email": "a@shop.example\r\nBcc: b@x.example"}}, "/contact/email", "email"),
        (
            {"contact": {"email": "ada@shop.example", "phone": "+4915112345678\n"}},
            "/contact/phone",
            r"pattern ^\+[1-9][0-9]{6,14}$",
        ),
        (
            {"contact": {"email": "ada@shop.example", "phone": "0151\0"}},
            "/contact/phone",
            r"pattern ^\+[1-9][0-9]{6,14}$",
        ),
        ({"shippingAddress": []}, "/shippingAddress", "object"),
    ],
)
async def test_one_fault_is_pointed_at(
    api: Any, sql: Sql, changes: dict[str, Any], field: str, rule: str
) -> None:
    response = await api.checkout(**changes)

    assert response.status_code == 422
    assert api.problem(response) == "invalid-body"
    assert api.faults(response) == [(field, rule)]
    assert await count_orders(sql) == 0


async def test_all_faults_are_told_at_once(api: Any) -> None:
    response = await api.post(
        json.dumps(
            {
                "items": [{"sku": "", "quantity": 0}, {"quantity": "two"}],
                "paymentMethod": "gold",
                "contact": {"email": "ada", "phone": "1"},
                "discount": 100,
            }
        ).encode()
    )

    assert {field for field, _ in api.faults(response)} == {
        "/items/0/sku",
        "/items/0/quantity",
        "/items/1/sku",
        "/items/1/quantity",
        "/paymentMethod",
        "/contact/email",
        "/contact/phone",
        "/discount",
    }
    assert response.json()["instance"] == "/checkout"
    assert response.json()["status"] == 422


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"text"'])
async def test_body_must_be_an_object(api: Any, body: bytes) -> None:
    response = await api.post(body)

    assert (response.status_code, api.faults(response)) == (422, [("", "object")])


def spoiled(old: str, new: str) -> bytes:
    """Return a good body with one part of its text replaced."""
    text = json.dumps(BODY)
    assert old in text
    return text.replace(old, new).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"items=1",
        b"\xff\xfe",
        json.dumps(BODY).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(BODY).encode(),
        json.dumps(BODY).encode() + b"{}",
        spoiled("pot-glass", "\\ud800"),
        spoiled("pot-glass", "\\udc00x"),
        spoiled("pot-glass", "raw\0nul"),
        spoiled("ada@", "\xe4@").decode().encode("latin-1"),
        b"[" * 60_000,
        b'{"a":' * 10_000,
        spoiled("2", "9" * 5_000),
        spoiled('"paymentMethod"', '"paymentMethod": "cash", "paymentMethod"'),
        spoiled('"quantity"', '"quantity": 1, "quantity"'),
        spoiled('"paymentMethod"', '"paymentMethod": NaN, "paymentMethod"'),
        spoiled('"paymentMethod"', f'"paymentMethod": {"9" * 4_500}, "paymentMethod"'),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_not_plain_json_is_refused(api: Any, sql: Sql, body: bytes) -> None:
    response = await api.post(body)

    assert (response.status_code, api.problem(response)) == (400, "not-json")
    assert await count_orders(sql) == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "2.0", "2e0"])
async def test_odd_numbers_are_faults(api: Any, number: str) -> None:
    response = await api.post(spoiled("2", number))

    assert (response.status_code, api.problem(response)) == (422, "invalid-body")
    assert api.faults(response)[0][0] == "/items/0/quantity"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop.v1+json"],
)
async def test_json_media_types_are_taken(api: Any, content_type: str) -> None:
    response = await api.post(json.dumps(BODY).encode(), **{"Content-Type": content_type})

    assert response.status_code == 202


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/+json", "text/json"],
)
async def test_other_media_types_are_refused(api: Any, content_type: str) -> None:
    response = await api.post(json.dumps(BODY).encode(), **{"Content-Type": content_type})

    assert (response.status_code, api.problem(response)) == (415, "unsupported-media-type")
    assert api.faults(response) == [("Content-Type", "application/json")]


async def test_a_hundred_buyers_of_the_last_ten(api: Any, sql: Sql) -> None:
    await sql.execute("UPDATE products SET stock = 10 WHERE sku = 'pot-glass'")

    responses = await asyncio.gather(
        *(
            api.checkout(user=f"user-{buyer}", items=[{"sku": "pot-glass", "quantity": 1}])
            for buyer in range(100)
        )
    )

    assert Counter(response.status_code for response in responses) == {202: 10, 409: 90}
    assert await count_orders(sql) == 10
    assert await sql.fetchval("SELECT stock FROM products WHERE sku = 'pot-glass'") == 0


async def test_what_is_out_of_stock_is_named(api: Any, sql: Sql) -> None:
    items = [
        {"sku": "tea-assam", "quantity": 1},
        {"sku": "pot-glass", "quantity": 300},
        {"sku": "pot-glass", "quantity": 201},
    ]
    response = await api.checkout(items=items)

    assert (response.status_code, api.problem(response)) == (409, "out-of-stock")
    assert response.json()["sku"] == "pot-glass"
    assert api.faults(response) == [
        ("/items/1/quantity", "in-stock"),
        ("/items/2/quantity", "in-stock"),
    ]
    assert await count_orders(sql) == 0
    assert await sql.fetchval("SELECT stock FROM products WHERE sku = 'pot-glass'") == 500


async def test_what_another_took_between_the_look_and_the_write_is_named(
    api: Any, sql: Sql
) -> None:
    async with sql.transaction():
        await sql.execute("UPDATE products SET stock = 1 WHERE sku = 'pot-glass'")
        items = [{"sku": "tea-assam", "quantity": 1}, {"sku": "pot-glass", "quantity": 2}]
        asked = asyncio.create_task(api.checkout(items=items))
        async with asyncio.timeout(30):
            while not await sql.fetchval(WAITING):
                await asyncio.sleep(0.01)
    response = await asked

    assert (response.status_code, api.problem(response)) == (409, "out-of-stock")
    assert api.faults(response) == [("/items/1/quantity", "in-stock")]
    assert await count_orders(sql) == 0
    assert await sql.fetchval("SELECT stock FROM products WHERE sku = 'pot-glass'") == 1


async def test_unknown_products_are_pointed_at(api: Any) -> None:
    items = [{"sku": sku, "quantity": 1} for sku in ("anvil", "tea-assam", "rocket", "anvil")]
    response = await api.checkout(items=items)

    assert (response.status_code, api.problem(response)) == (422, "unknown-products")
    assert api.faults(response) == [
        ("/items/0/sku", "known-product"),
        ("/items/2/sku", "known-product"),
        ("/items/3/sku", "known-product"),
    ]


async def test_one_order_has_one_currency(api: Any, sql: Sql) -> None:
    await sql.execute("UPDATE products SET currency = 'CHF' WHERE sku = 'cup-stone'")
    items = [{"sku": sku, "quantity": 1} for sku in ("cup-stone", "tea-assam")]
    response = await api.checkout(items=items)

    assert (response.status_code, api.problem(response)) == (422, "mixed-currencies")
    assert api.faults(response) == [("/items", "one-currency")]


async def test_a_total_that_no_column_holds_is_refused(api: Any, sql: Sql) -> None:
    await sql.execute("UPDATE products SET price = 9999999999.99 WHERE sku = 'gift-card'")
    one = await api.checkout(items=[{"sku": "gift-card", "quantity": 1}])
    two = await api.checkout(items=[{"sku": "gift-card", "quantity": 2}])

    assert (one.status_code, one.json()["total"]) == (202, "9999999999.99")
    assert (two.status_code, api.problem(two)) == (422, "total-too-large")
    assert api.faults(two) == [("/items", "total-less-than-equal 9999999999.99")]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGSTOP])
async def test_checkout_goes_on_without_redis(
    api: Any, serve: Any, settings: Settings, tmp_path: Path, how: signal.Signals
) -> None:
    assert api  # the catalogue is for sale
    redis = start_redis(tmp_path / "own-redis", free_port())
    own = settings.model_copy(update={"redis_url": RedisUrl(redis.url), "redis_timeout_ms": 250})
    try:
        async with serve(own) as without_redis:
            assert (await without_redis.checkout()).status_code == 202
            # Gone, or there but silent.
            redis.process.send_signal(how)
            if how is signal.SIGTERM:
                redis.process.wait(10)
            begun = time.monotonic()
            response = await without_redis.checkout()
            took_s = time.monotonic() - begun
            order = await without_redis.get(response.headers["Location"])
    finally:
        redis.kill()

    assert response.status_code == 202
    assert took_s < 2
    assert order.json()["status"] == "pending"
