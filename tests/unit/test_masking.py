"""What is masked: fields by their names, and what is personal or secret inside of texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.operations.masking import MASK, mask, mask_text, unmask

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["orderId", "email", "card", "note", "items"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("mail to ada@shop.example failed", "mail to ***@*** failed"),
        ("<Ada+x@sub.shop.example>: no such user", "<***@***>: no such user"),
        ("call +49 151 12345678 now", "call +*** now"),
        ("card 4111 1111 1111 1111 declined", "card *** declined"),
        ("pan=4111111111111111", "pan=***"),
        ("redis://user:hunter2@host:6379/0", "redis://***:***@host:6379/0"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln bad", "token *** bad"),
        ("no charge for tok_visa_4242", "no charge for tok_***"),
        ('{"password": "hunter2"}', '{"password": ***'),
        ("half a pair: \ud83d", "half a pair: ?"),
    ],
)
def test_a_text_is_masked(said: str, shown: str) -> None:
    assert mask_text(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "There is no order '019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b'.",
        "Job payment-019a1b2c-3d4e-7f60-8a9b-000000000000 failed",
        "transaction ch_7908099102cd47d9b9c0e0f2530495a6",
        "The handler of 'process-payment' ran longer than its limit of 60000 ms.",
        "order 1785312000000 of 2026-01-31T12:00:00Z for 39.98 EUR",
        "order 4111111111111112",
    ],
)
def test_what_a_person_needs_stays(said: str) -> None:
    assert mask_text(said) == said


def test_fields_are_masked_by_name_at_any_depth() -> None:
    data = {
        "orderId": "o-1",
        "E-Mail": "ada",
        "customer": {"name": "Ada", "since": 2020},
        "items": [{"sku": "tea", "shipping_address": {"city": "Berlin"}}],
        "paymentToken": "secret",
        "phone": None,
    }
    assert mask(data) == {
        "orderId": "o-1",
        "E-Mail": MASK,
        "customer": MASK,
        "items": [{"sku": "tea", "shipping_address": MASK}],
        "paymentToken": MASK,
        "phone": None,
    }


def test_what_is_still_masked_comes_back_as_it_was() -> None:
    original = {"email": "ada@shop.example", "amount": 5, "notes": ["call +49 151 12345678", "x"]}
    edited = mask(original) | {"amount": 7, "new": True}
    assert unmask(edited, original) == original | {"amount": 7, "new": True}


@given(JSON)
def test_what_was_not_edited_is_not_changed(data: object) -> None:
    assert unmask(mask(data), data) == data


def test_what_is_too_deep_to_show_is_masked_and_comes_back() -> None:
    data: object = "deep"
    for _ in range(400):
        data = {"inside": [data]}
    shown = mask(data)
    assert len(json.dumps(shown)) < 2_000
    assert unmask(shown, data) == data
