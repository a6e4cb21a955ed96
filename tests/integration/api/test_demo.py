"""/demo: a shop to play with, and nowhere but in development."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.integration.api.conftest import BODY

from orderflow.api.app import create_app
from orderflow.api.auth import check_authentication
from orderflow.errors import InvalidSettings
from orderflow.resources import Resources
from orderflow.settings import Settings, load_settings


@asynccontextmanager
async def demo(settings: Settings, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings.model_copy(update={"development": True, **changes}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://shop.test"
        ) as client,
    ):
        yield client


async def test_it_is_not_there_but_in_development(api: Any) -> None:
    for method, path in (
        ("GET", "/demo"),
        ("POST", "/demo/token"),
        ("GET", "/demo/static/demo.js"),
        ("GET", "/demo/mails/1"),
    ):
        answer = await api.client.request(method, path, headers=api.bearer())
        assert (answer.status_code, api.problem(answer)) == (404, "not-found")


async def test_the_page_shows_what_is_for_sale(settings: Settings, resources: Resources) -> None:
    await resources.db.fetch("upsert_product", "cup-gone", "Cup <old>", "3.00", "EUR", 0)
    async with demo(settings) as client:
        page = await client.get("/demo")
        assert page.status_code == 200
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "Glass teapot 1 l" in page.text
        assert "500 in stock" in page.text
        assert "Cup &lt;old&gt;" in page.text
        assert "Sold out" in page.text
        assert "tok_decline_insufficient_funds" in page.text
        for name in ("demo.css", "demo.js"):
            assert (await client.get(f"/demo/static/{name}")).status_code == 200
        assert (await client.get("/demo/static/shop.html")).status_code == 404


@pytest.mark.parametrize("asked_for", [{}, {"jwt_audience": "shop", "jwt_issuer": "login"}])
async def test_whoever_comes_is_a_customer_of_their_own(
    settings: Settings, resources: Resources, asked_for: dict[str, str]
) -> None:
    assert resources
    async with demo(settings, **asked_for) as client:
        ada, bob = [(await client.post("/demo/token")).json() for _ in range(2)]
        assert ada["user"] != bob["user"]
        headers = {"Authorization": f"Bearer {ada['token']}"}
        answer = await client.get("/orders", headers=headers)
        assert answer.json() == {"orders": [], "nextCursor": None}
        assert (await client.get("/admin/api/queues", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("status", "declined", "told"),
    [
        ("processing", None, None),
        ("confirmed", None, "is paid and confirmed"),
        ("cancelled", "card_declined", "was declined"),
        ("cancelled", "order_cancelled", None),
    ],
    ids=["open", "paid", "declined", "cancelled by its customer"],
)
async def test_a_mail_is_there_for_its_customer_alone(
    settings: Settings,
    resources: Resources,
    sql: Any,
    status: str,
    declined: str | None,
    told: str | None,
) -> None:
    assert resources
    async with demo(settings) as client:
        ada, bob = [
            {"Authorization": f"Bearer {(await client.post('/demo/token')).json()['token']}"}
            for _ in range(2)
        ]
        placed = await client.post("/checkout", headers=ada, json=BODY)
        path = f"/demo/mails/{placed.json()['orderId']}"
        await sql.execute("UPDATE orders SET status = $1", status)
        await sql.execute("UPDATE payments SET decline_reason = $1", declined)
        mail = await client.get(path, headers=ada)
        assert mail.status_code == (404 if told is None else 200), mail.text
        assert told is None or (BODY["contact"]["email"] in mail.text and told in mail.text)
        assert (await client.get(path, headers=bob)).status_code == 404
        assert (await client.get(path)).status_code == 401


def test_it_takes_no_money_and_signs_its_tokens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettings, match="DEVELOPMENT: only with PAYMENT_GATEWAY=sandbox"):
        load_settings(development=True, payment_gateway="stripe")
    keys = settings.model_copy(
        update={"development": True, "jwt_secret": None, "jwt_jwks": "https://login.example/keys"}
    )
    with pytest.raises(InvalidSettings, match="DEVELOPMENT: /demo needs JWT_SECRET"):
        check_authentication(keys)
