"""Bearer tokens: which are taken, and that every forged or stale one is refused alike."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from structlog.testing import capture_logs

from orderflow.api.app import create_app
from orderflow.errors import InvalidSettings
from orderflow.settings import Settings

INVALID = 'Bearer error="invalid_token"'


def claims(**changes: Any) -> dict[str, Any]:
    given = {"sub": "user-1", "exp": int(time.time()) + 60} | changes
    return {name: value for name, value in given.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def assert_refused(response: httpx.Response, challenge: str = INVALID) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == challenge
    assert response.json()["type"] == "urn:orderflow:problem:unauthenticated"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_good_token_is_taken(api: Any, scheme: str) -> None:
    token = jwt.encode(claims(), api.secret, algorithm="HS256")

    assert (
        await api.client.get("/orders", headers={"Authorization": f"{scheme} {token}"})
    ).status_code == 200


@pytest.mark.parametrize("path", ["/orders", "/orders/x"])
async def test_without_a_token_nothing_is_told(api: Any, path: str) -> None:
    response = await api.client.get(path)

    assert_refused(response, 'Bearer realm="orderflow"')


async def test_checkout_asks_who_it_is_before_anything_else(api: Any) -> None:
    response = await api.client.post("/checkout", content=b"no json")

    assert_refused(response, 'Bearer realm="orderflow"')


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x", "Bearer a.b.c", "Bearer a b", "é"],
)
async def test_what_is_no_token_is_refused(api: Any, authorization: str) -> None:
    assert_refused(
        await api.client.get("/orders", headers={"Authorization": authorization.encode("latin-1")})
    )


async def test_two_authorizations_are_refused(api: Any) -> None:
    good = api.bearer()["Authorization"]
    response = await api.client.get(
        "/orders", headers=[("Authorization", good), ("Authorization", good)]
    )

    assert_refused(response)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_600_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"nbf": 9_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": ["user-1"]},
        {"sub": "u" * 256},
        {"sub": "user\n1"},
        {"sub": "user\x001"},
        {"sub": "user\x851"},
        {"sub": "user\ud800"},
    ],
    ids=repr,
)
async def test_bad_claims_are_refused(api: Any, forge: Any, changes: dict[str, Any]) -> None:
    token = forge({"alg": "HS256"}, claims(**changes), api.secret.encode())

    assert_refused(await api.list_with(token))


@pytest.mark.parametrize("user", ["u", "u" * 255, "jürgen@shop.example", "auth0|17", "名前"])
async def test_users_of_all_kinds_are_taken(api: Any, user: str) -> None:
    response = await api.checkout(user=user)

    assert response.status_code == 202


async def test_a_token_made_by_a_faster_clock_is_taken(api: Any) -> None:
    token = jwt.encode(claims(iat=int(time.time()) + 30), api.secret, algorithm="HS256")

    assert (await api.list_with(token)).status_code == 200


@pytest.mark.parametrize("roles", ["admin", {"admin": True}, [["admin"]], 1, ["Admin"], None])
async def test_only_a_list_with_admin_in_it_makes_an_admin(
    api: Any, place: Any, roles: Any
) -> None:
    order_id = await place(user="user-2")
    token = jwt.encode(claims(roles=roles), api.secret, algorithm="HS256")

    response = await api.client.get(
        f"/orders/{order_id}", headers={"Authorization": f"Bearer {token}"}
    )

    assert response.status_code == 404


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "RS256", "", None, 7])
async def test_the_header_does_not_choose_the_algorithm(
    api: Any, forge: Any, algorithm: Any
) -> None:
    unsigned = forge({"alg": algorithm}, claims())
    signed = forge({"alg": algorithm}, claims(), api.secret.encode())

    assert_refused(await api.list_with(unsigned))
    assert_refused(await api.list_with(signed))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        ["HS256"],
    ],
    ids=repr,
)
async def test_odd_headers_are_refused(api: Any, forge: Any, header: Any) -> None:
    assert_refused(await api.list_with(forge(header, claims(), api.secret.encode())))


async def test_deep_and_huge_headers_are_refused(api: Any) -> None:
    for header in (b"[" * 100_000, b'{"alg":' + b"9" * 5_000 + b"}"):
        assert_refused(await api.list_with(f"{b64(header)}.e30.AAAA"))


async def test_another_secret_is_refused(api: Any) -> None:
    assert_refused(await api.list_with(jwt.encode(claims(), "x" * 64, algorithm="HS256")))


async def test_a_changed_token_is_refused(api: Any) -> None:
    head, body, signature = jwt.encode(claims(), api.secret, algorithm="HS256").split(".")
    other = b64(json.dumps(claims(sub="user-2")).encode())

    assert_refused(await api.list_with(f"{head}.{other}.{signature}"))
    assert_refused(await api.list_with(f"{head}.{body}."))


async def test_the_token_is_in_no_answer_and_no_log(api: Any) -> None:
    token = jwt.encode(claims(exp=1), api.secret, algorithm="HS256")

    with capture_logs() as lines:
        response = await api.list_with(token)

    assert response.json()["detail"] == "The token has expired."
    assert lines == [
        {"event": "token refused", "log_level": "info", "reason": "ExpiredSignatureError"}
    ]
    for part in token.split("."):
        assert part not in response.text + repr(response.headers) + repr(lines)


async def test_audience_and_issuer_are_checked_where_set(serve: Any, settings: Settings) -> None:
    checked = settings.model_copy(update={"jwt_audience": "shop", "jwt_issuer": "https://login"})
    good = {"aud": ["other", "shop"], "iss": "https://login"}
    async with serve(checked) as api:

        async def status(**changes: Any) -> int:
            token = jwt.encode(claims(**good | changes), api.secret, algorithm="HS256")
            return (await api.list_with(token)).status_code

        assert await status() == 200
        assert await status(aud="shop") == 200
        assert await status(aud="other") == 401
        assert await status(aud=None) == 401
        assert await status(iss="https://login.evil") == 401
        assert await status(iss=None) == 401


async def test_audience_and_issuer_are_free_where_unset(api: Any) -> None:
    token = jwt.encode(claims(aud="any", iss="any"), api.secret, algorithm="HS256")

    assert (await api.list_with(token)).status_code == 200


def test_one_of_the_two_must_be_set(settings: Settings) -> None:
    with pytest.raises(InvalidSettings, match="JWT_SECRET or JWT_JWKS"):
        create_app(settings.model_copy(update={"jwt_secret": None}))


def test_a_missing_file_is_told_at_start(settings: Settings, tmp_path: Path) -> None:
    missing = {"jwt_secret": None, "jwt_jwks": str(tmp_path / "none.json")}
    with pytest.raises(InvalidSettings, match="JWT_JWKS"):
        create_app(settings.model_copy(update=missing))
