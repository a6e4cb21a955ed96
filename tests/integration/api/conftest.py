"""The real app under its lifespan. Whatever it answers, in any test, must be in its reference."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from orderflow.api.app import create_app
from orderflow.api.openapi import openapi_document
from orderflow.resources import Resources
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

BODY: dict[str, Any] = {
    "items": [{"sku": "pot-glass", "quantity": 2}],
    "paymentMethod": "card",
    "paymentToken": "tok_approve",
    "contact": {"email": "ada@shop.example"},
}


@dataclass(frozen=True)
class Api:
    """A client of the app, with a token for whoever is asked for."""

    client: httpx.AsyncClient
    secret: str

    def bearer(self, user: str = "user-1", *, admin: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {make_token(self.secret, user, admin=admin)}"}

    async def checkout(
        self, *, user: str = "user-1", key: str | None = None, **changes: Any
    ) -> httpx.Response:
        """Post a body that is good, but for the changes."""
        headers = self.bearer(user) | ({"Idempotency-Key": key} if key is not None else {})
        return await self.client.post("/checkout", headers=headers, json=BODY | changes)

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        """Post bytes as they are."""
        sent = self.bearer() | {"Content-Type": "application/json"} | headers
        return await self.client.post("/checkout", headers=sent, content=content)

    @staticmethod
    def problem(response: httpx.Response) -> str:
        """Return the last part of the problem's type."""
        kind: str = response.json()["type"].removeprefix("urn:orderflow:problem:")
        return kind

    @staticmethod
    def faults(response: httpx.Response) -> list[tuple[str, str]]:
        """Return the field and rule of each fault that the problem tells."""
        return [(fault["field"], fault["rule"]) for fault in response.json()["errors"]]

    async def list_with(self, token: str) -> httpx.Response:
        """List orders with a token of the test's own."""
        return await self.client.get("/orders", headers={"Authorization": f"Bearer {token}"})

    async def get(self, path: str, *, user: str = "user-1", admin: bool = False) -> httpx.Response:
        return await self.client.get(path, headers=self.bearer(user, admin=admin))


async def count_orders(sql: asyncpg.Connection[asyncpg.Record]) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM orders"))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


Forge = Callable[..., str]


@pytest.fixture
def forge() -> Forge:
    """Make a token of whatever one likes, signed with HMAC or not at all, as no library would."""

    def forge(header: Any, body: Any, key: bytes = b"") -> str:
        signed = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(body).encode())}"
        signature = hmac.digest(key, signed.encode(), hashlib.sha256) if key else b""
        return f"{signed}.{_b64(signature)}"

    return forge


Serve = Callable[[Settings], AbstractAsyncContextManager[Api]]


@pytest.fixture
def serve() -> Serve:
    """Run the app with settings of the test's own."""

    @asynccontextmanager
    async def serve(settings: Settings) -> AsyncIterator[Api]:
        app = create_app(settings)
        secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://shop.test",
                event_hooks={"response": [check_against_reference]},
            ) as client,
        ):
            yield Api(client, secret)

    return serve


@pytest.fixture
async def api(serve: Serve, settings: Settings, resources: Resources) -> AsyncIterator[Api]:
    """The app with real servers, and the small catalogue for sale."""
    assert resources
    async with serve(settings) as api:
        yield api


@pytest.fixture
def place(api: Api) -> Callable[..., Awaitable[str]]:
    """Place an order over HTTP and return its id."""

    async def place(**kwargs: Any) -> str:
        response = await api.checkout(**kwargs)
        assert response.status_code == 202, response.text
        order_id: str = response.json()["orderId"]
        return order_id

    return place


async def check_against_reference(response: httpx.Response) -> None:
    """Fail unless the OpenAPI document knows this answer: status, headers, type and body."""
    await response.aread()
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] in {"no-store", "no-cache"}
    answers = _documented(response.request)
    answer = answers.get(str(response.status_code), answers["default"])
    media_type = response.headers["Content-Type"].partition(";")[0]
    assert media_type in answer["content"], f"{response.status_code} {media_type}"
    assert (media_type == "application/problem+json") == ("problem" in media_type)
    if "json" in media_type:
        body = response.json()
        validate(body, answer["content"][media_type]["schema"])
        if media_type == "application/problem+json":
            labels = answer["content"][media_type]["examples"]
            assert body["type"].rpartition(":")[2] in labels, body["type"]
            assert body["status"] == response.status_code


def _documented(request: httpx.Request) -> dict[str, Any]:
    for path, methods in openapi_document()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.url.path):
            found: dict[str, Any] = methods.get(request.method.lower(), methods.get("get"))
            operation = found or methods["post"]
            return operation["responses"]  # type: ignore[no-any-return]
    default = openapi_document()["paths"]["/livez"]["get"]["responses"]["default"]
    return {"default": default}


def validate(value: Any, schema: dict[str, Any]) -> None:
    """Raise unless `value` is as a schema of the document says."""
    whole = schema | {"components": openapi_document()["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(value)
