"""GET /orders and GET /orders/{id}: who sees what, in which form, and page by page."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from orderflow.contract import row_id

Sql = asyncpg.Connection

ADDRESS = {
    "name": "Ada Lovelace",
    "line1": "Musterweg 1",
    "line2": "3. Stock",
    "postalCode": "10115",
    "city": "Berlin",
    "region": "Berlin",
    "country": "DE",
}


def ids(response: httpx.Response) -> list[str]:
    return [order["orderId"] for order in response.json()["orders"]]


async def adopt(sql: Sql, order_id: str, payment_id: str) -> None:
    """Write the rows of an order that another producer's job brought."""
    await sql.execute(
        "INSERT INTO orders (id, external_id, source, status, total, currency)"
        " VALUES ($1, $2, 'external', 'pending', 5, 'EUR')",
        row_id(order_id),
        order_id,
    )
    await sql.execute(
        "INSERT INTO payments (id, external_id, order_id, method, amount, currency, status)"
        " VALUES ($1, $2, $3, 'card', 5, 'EUR', 'pending')",
        row_id(payment_id),
        payment_id,
        row_id(order_id),
    )


async def test_owner_sees_the_whole_order(api: Any, place: Any) -> None:
    items = [{"sku": "tea-assam", "quantity": 3}, {"sku": "pot-glass", "quantity": 1}]
    contact = {"email": "ada@shop.example", "phone": "+4915112345678"}
    order_id = await place(items=items, contact=contact, shippingAddress=ADDRESS)

    response = await api.get(f"/orders/{order_id}")

    assert response.status_code == 200
    order = response.json()
    created, updated = order.pop("createdAt"), order.pop("updatedAt")
    assert created == updated
    assert created.endswith("Z")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(created)) < timedelta(minutes=1)
    assert UUID(order["payment"].pop("paymentId"))
    assert order == {
        "orderId": order_id,
        "status": "pending",
        "total": "60.70",
        "currency": "EUR",
        "items": [
            {
                "sku": "tea-assam",
                "name": "Assam tea 250 g",
                "quantity": 3,
                "unitPrice": "8.90",
                "total": "26.70",
            },
            {
                "sku": "pot-glass",
                "name": "Glass teapot 1 l",
                "quantity": 1,
                "unitPrice": "34.00",
                "total": "34.00",
            },
        ],
        "payment": {"method": "card", "status": "pending", "declineReason": None},
        "contact": contact,
        "shippingAddress": ADDRESS,
        "shipment": None,
        "refunds": [],
    }


async def test_a_declined_order_says_why(api: Any, place: Any, sql: Sql) -> None:
    order_id = await place()
    await sql.execute("UPDATE payments SET status = 'failed', decline_reason = 'card_declined'")

    order = (await api.get(f"/orders/{order_id}")).json()

    assert order["payment"]["declineReason"] == "card_declined"


async def test_somebody_elses_order_is_not_there(api: Any, place: Any) -> None:
    order_id = await place(user="user-1")

    theirs = await api.get(f"/orders/{order_id}", user="user-2")
    unknown = await api.get(f"/orders/{uuid4()}", user="user-2")

    assert theirs.status_code == unknown.status_code == 404
    assert theirs.json()["type"] == unknown.json()["type"]
    assert theirs.json()["title"] == unknown.json()["title"]


@pytest.mark.parametrize(
    "order_id", ["7", "no-uuid", "%00", "%FF", "%ED%A0%80", "{x}", "a" * 5_000, "..;", "'; --"]
)
async def test_malformed_ids_are_not_there(api: Any, order_id: str) -> None:
    response = await api.get(f"/orders/{order_id}")

    assert response.status_code == 404
    assert response.json()["type"] == "urn:orderflow:problem:order-not-found"


async def test_admin_sees_everybodys(api: Any, place: Any) -> None:
    order_id = await place(user="user-1")

    order = (await api.get(f"/orders/{order_id}", user="boss", admin=True)).json()

    assert (order["userId"], order["source"]) == ("user-1", "checkout")


async def test_adopted_order_is_found_by_its_producers_id(api: Any, sql: Sql) -> None:
    await adopt(sql, "1042", "pay-1042")

    found = await api.get("/orders/1042", admin=True)
    hidden = await api.get("/orders/1042")

    assert found.status_code == 200
    assert (found.json()["userId"], found.json()["source"]) == (None, "external")
    assert found.json()["contact"] == {"email": None, "phone": None}
    assert hidden.status_code == 404


async def test_list_is_ones_own_newest_first(api: Any, place: Any) -> None:
    mine = [await place(user="user-1") for _ in range(3)]
    await place(user="user-2")

    response = await api.get("/orders")

    assert ids(response) == mine[::-1]
    assert response.json()["nextCursor"] is None
    assert "userId" not in response.json()["orders"][0]


async def test_admin_lists_everybodys(api: Any, place: Any) -> None:
    orders = [await place(user=f"user-{number}") for number in range(3)]

    response = await api.get("/orders", user="boss", admin=True)

    assert ids(response) == orders[::-1]
    assert [order["userId"] for order in response.json()["orders"]] == [
        "user-2",
        "user-1",
        "user-0",
    ]


@pytest.mark.parametrize("admin", [False, True])
async def test_pages_hold_every_order_once(api: Any, place: Any, admin: bool) -> None:
    orders = [await place() for _ in range(5)]

    seen: list[str] = []
    sizes: list[int] = []
    path = "/orders?limit=2"
    while path:
        page = await api.get(path, admin=admin)
        seen += ids(page)
        sizes.append(len(ids(page)))
        cursor = page.json()["nextCursor"]
        path = f"/orders?limit=2&cursor={cursor}" if cursor else ""

    assert seen == orders[::-1]
    assert sizes == [2, 2, 1]


async def test_a_full_last_page_has_no_cursor(api: Any, place: Any) -> None:
    for _ in range(2):
        await place()

    response = await api.get("/orders?limit=2")

    assert (len(ids(response)), response.json()["nextCursor"]) == (2, None)


async def test_a_cursor_opens_nobody_elses_orders(api: Any, place: Any) -> None:
    for _ in range(3):
        await place(user="user-1")
    cursor = (await api.get("/orders?limit=1")).json()["nextCursor"]

    response = await api.get(f"/orders?cursor={cursor}", user="user-2")

    assert ids(response) == []


async def test_list_by_status(api: Any, place: Any, sql: Sql) -> None:
    first, second = await place(), await place()
    await sql.execute("UPDATE orders SET status = 'confirmed' WHERE id = $1", first)

    assert ids(await api.get("/orders?status=confirmed")) == [first]
    assert ids(await api.get("/orders?status=pending")) == [second]
    assert ids(await api.get("/orders?status=shipped")) == []


STATUSES = "one-of pending, processing, confirmed, shipped, delivered, cancelled"
NO_ORDER = base64.urlsafe_b64encode(b"too short").decode()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=lost", [("status", STATUSES)]),
        ("status=", [("status", STATUSES)]),
        ("limit=0", [("limit", "greater-than-equal 1")]),
        ("limit=101", [("limit", "less-than-equal 100")]),
        ("limit=-1", [("limit", "greater-than-equal 1")]),
        ("limit=", [("limit", "integer")]),
        ("limit=ten", [("limit", "integer")]),
        ("limit=1e1", [("limit", "integer")]),
        ("limit=NaN", [("limit", "integer")]),
        (f"limit={'9' * 5_000}", [("limit", "int-parsing-size")]),
        ("cursor=", [("cursor", "cursor")]),
        ("cursor=%00", [("cursor", "cursor")]),
        ("cursor=ü", [("cursor", "cursor")]),
        (f"cursor={NO_ORDER}", [("cursor", "cursor")]),
        (f"cursor={'A' * 22}%3D%3D", [("cursor", "cursor")]),
        (f"cursor={'A' * 21}B", [("cursor", "cursor")]),
        (f"cursor={'A' * 21}!", [("cursor", "cursor")]),
        ("page=2", [("page", "no-unknown-fields")]),
        ("limit=1&limit=2", [("limit", "once")]),
        ("a%5B%5D=1", [("a[]", "no-unknown-fields")]),
        ("=1", [("", "no-unknown-fields")]),
        (
            "status=lost&limit=0&x=1",
            [("status", STATUSES), ("limit", "greater-than-equal 1"), ("x", "no-unknown-fields")],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_queries_are_named(api: Any, query: str, expected: list[tuple[str, str]]) -> None:
    response = await api.get(f"/orders?{query}")

    assert response.status_code == 400
    assert response.json()["type"] == "urn:orderflow:problem:invalid-query"
    assert api.faults(response) == expected


async def test_legal_statuses_are_listed(api: Any) -> None:
    response = await api.get("/orders?status=lost")

    assert "'pending', 'processing', 'confirmed'" in response.json()["errors"][0]["detail"]


async def test_limit_is_twenty_unless_said(api: Any, place: Any) -> None:
    for _ in range(21):
        await place()

    assert len(ids(await api.get("/orders"))) == 20
    assert len(ids(await api.get("/orders?limit=100"))) == 21
