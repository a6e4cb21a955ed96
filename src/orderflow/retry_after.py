"""Retry-After (RFC 9110, 10.2.3), as whoever sends requests to others reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


def retry_after_s(headers: httpx.Headers, now: datetime) -> float:
    """Return how long a server asks to be left alone: seconds, or until a date. 0 if it does not.

    What cannot be read asks for nothing.
    """
    given = headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdecimal():
        return float(given)
    try:
        moment = parsedate_to_datetime(given)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
