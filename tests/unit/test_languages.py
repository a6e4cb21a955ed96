"""Accept-Language: what browsers send, and what nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.api.languages import read_languages


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("de-AT, de;q=0.9, en;q=0.5, *;q=0.1", ("de-AT", "de", "en")),
        ("fr;q=0.2,en;q=0,de;q=1.000 , es ; q=0.5", ("de", "es", "fr")),
        ("en;q=0.8, de;q=0.8", ("en", "de")),
        ("zh-Hant-TW", ("zh-Hant-TW",)),
        ("", ()),
        ("*", ()),
        ("de;q=2, en;q=high, ../etc, e n, nl", ("nl",)),
        ("de\x00, en\r\nX: 1, nl", ("nl",)),
    ],
)
def test_languages_come_by_their_weight(header: str, languages: tuple[str, ...]) -> None:
    assert read_languages(header) == languages


@settings(deadline=None)
@given(st.text(alphabet="deq=;, -*01.", max_size=2_000))
def test_what_is_kept_is_little_and_plain(header: str) -> None:
    languages = read_languages(header)
    assert len(languages) <= 8
    assert all(tag.replace("-", "").isalnum() and tag.isascii() for tag in languages)
