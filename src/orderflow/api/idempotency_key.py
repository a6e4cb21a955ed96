"""The header Idempotency-Key: what it may look like, and what it says."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from orderflow.api.faults import Fault
from orderflow.api.problems import Kind, Problem
from orderflow.checkout import IdempotencyKey
from orderflow.settings import Settings

MAX_KEY = 255

#: A structured field string (RFC 9651): only a quote and a backslash may be, and must be, escaped.
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


def read_idempotency_key(headers: Headers, settings: Settings) -> IdempotencyKey | None:
    """Return the request's Idempotency-Key, if it has one; quoted or bare it is the same key.

    Raises Problem if it is not usable, or missing where one is required.
    """
    given = headers.getlist("idempotency-key")
    if not given:
        if settings.idempotency_key_required:
            raise invalid_key("required", "This shop takes no checkout without one.")
        return None
    if len(given) > 1:
        raise invalid_key("once", "The header may be sent only once.")
    key = given[0].strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise invalid_key(
                "structured-field-string", 'A quoted key ends with its quote; \\ and " are escaped.'
            )
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY:
        raise invalid_key(f"length 1..{MAX_KEY}", f"The key has 1 to {MAX_KEY} characters.")
    if not _PRINTABLE.fullmatch(key):
        raise invalid_key("printable-ascii", "The key has printable ASCII characters only.")
    return IdempotencyKey(key, settings.idempotency_ttl_s)


def invalid_key(rule: str, detail: str) -> Problem:
    """Return the problem of a request whose Idempotency-Key breaks a rule."""
    return Problem(
        Kind.INVALID_HEADER,
        f"Idempotency-Key: {detail}",
        faults=[Fault("Idempotency-Key", rule, detail)],
    )
