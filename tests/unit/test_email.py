"""The short way to an address agrees with the library that judges all others."""

from __future__ import annotations

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orderflow.checkout_body import _PLAIN_EMAIL, Contact

ALPHABET = "aB9.-_+@ é\"'\\\n"
labels = st.text("aB9-", min_size=1, max_size=5)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)
ends = st.sampled_from(
    ["", ".de", ".example", ".test", ".local", ".localhost", ".arpa", ".c", ".x1"]
)
addresses = st.one_of(
    st.text(ALPHABET, max_size=30),
    st.builds("{}@{}{}".format, st.text("aB9._+-", max_size=8), domains, ends),
)


def judged(address: str) -> str | None:
    try:
        return validate_email(address, check_deliverability=False).normalized
    except EmailNotValidError:
        return None


@settings(max_examples=1_000)
@given(addresses)
@example("Ada@Shop.Example")
@example("ada@localhost")
@example("ada@shop.test")
@example("ada@test")
@example("ada@sub.arpa")
@example("ada@xn--bcher-kva.example")
@example("ada@a--b.example")
@example("ada@-a.example")
@example("ada@a-.example")
@example("a" * 64 + "@shop.example")
@example("a" * 65 + "@shop.example")
@example("a." * 31 + "aa@shop.example")
@example("a." * 32 + "aa@shop.example")
@example("ada@" + "a" * 63 + ".example")
@example("ada@" + "a" * 64 + ".example")
@example("ada@" + ("a" * 60 + ".") * 4 + "de")
@example("ada@shop.example\n")
def test_it_takes_what_the_library_takes(address: str) -> None:
    try:
        taken = Contact(email=address).email
    except ValidationError:
        taken = None
    assert taken == judged(address)


@pytest.mark.parametrize("address", ["ada@shop.example", "Ada.L+x@mail.shop.co.uk", "a_b-1@x.de"])
def test_a_usual_address_goes_the_short_way(address: str) -> None:
    assert _PLAIN_EMAIL.fullmatch(address)
