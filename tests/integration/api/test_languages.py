"""The languages of a customer: what the request names is kept with the order."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.integration.api.conftest import BODY, Api

Sql = asyncpg.Connection


def contact(language: str) -> dict[str, Any]:
    return {"contact": BODY["contact"] | {"language": language}}


@pytest.mark.parametrize(
    ("header", "own", "kept"),
    [
        ("fr;q=0.5, de-AT", None, ["de-AT", "fr"]),
        ("fr", "de", ["de", "fr"]),
        (None, "de", ["de"]),
        ("*", None, None),
        (None, None, None),
    ],
    ids=["header", "both", "own", "any", "none"],
)
async def test_languages_are_kept_by_wish(
    api: Api, sql: Sql, header: str | None, own: str | None, kept: list[str] | None
) -> None:
    body = BODY | (contact(own) if own else {})
    headers = api.bearer() | ({"Accept-Language": header} if header else {})
    answer = await api.client.post("/checkout", json=body, headers=headers)
    assert answer.status_code == 202
    assert await sql.fetchval("SELECT languages FROM orders") == kept


@pytest.mark.parametrize("language", ["German", "de_AT", "", "de-", "de\n", "d" * 40])
async def test_what_is_no_language_tag_is_refused(api: Api, language: str) -> None:
    answer = await api.checkout(**contact(language))
    assert answer.status_code == 422
    assert {field for field, _ in api.faults(answer)} == {"/contact/language"}


async def test_a_browser_that_wishes_for_another_language_sends_the_same_request(
    api: Api, sql: Sql
) -> None:
    headers = api.bearer() | {"Idempotency-Key": "k-1"}
    for wished in ("de", "en"):
        again = await api.client.post(
            "/checkout", json=BODY, headers=headers | {"Accept-Language": wished}
        )
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await api.checkout(key="k-1", **contact("de"))
    assert api.problem(other) == "idempotency-key-reused"
    assert await sql.fetchval("SELECT languages FROM orders") == ["de"]


async def test_a_key_of_before_there_were_languages_is_still_good(api: Api, sql: Sql) -> None:
    await api.checkout(key="k-1")
    kept = await sql.fetchval("SELECT fingerprint FROM idempotency_keys")
    # The digest of this body as it was made before a contact had a language.
    assert kept.hex() == ("7b9cfbb1cb4eb8616ca32e00253ac2673e0217d65f5c2238f31ae67e457668d7")
