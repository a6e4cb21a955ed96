"""Accept-Language: the languages that a customer's browser asks for, the most wished first."""

from __future__ import annotations

import re
from functools import lru_cache

#: More than anybody speaks; whoever sends a thousand has them neither sorted nor kept.
_MAX_LANGUAGES = 8
_MAX_CHARACTERS = 500

#: One language of RFC 9110 with its weight. `*` says nothing that the shop's default does not.
_LANGUAGE = re.compile(
    r"\s*([a-z]{2,3}(?:-[a-z0-9]{1,8}){0,4})\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?", re.IGNORECASE
)


@lru_cache(maxsize=1_024)
def read_languages(header: str) -> tuple[str, ...]:
    """Return the languages of the header; what is not one is left out, and is no error."""
    weighted = []
    for part in header[:_MAX_CHARACTERS].split(","):
        found = _LANGUAGE.fullmatch(part)
        weight = float(found[2] or 1) if found else 0.0
        if found and weight > 0:
            weighted.append((weight, found[1]))
    weighted.sort(key=lambda pair: -pair[0])
    return tuple(tag for _, tag in weighted[:_MAX_LANGUAGES])
