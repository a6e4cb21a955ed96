"""Trace context: what a producer's telemetry put into a job goes on in its logs and its jobs.

Node's BullMQ writes it as JSON text into the job's options, `tm`, in the form of the W3C:
`{"traceparent": "00-<trace id>-<parent id>-<flags>"}`. It is passed on as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_carrier: ContextVar[str | None] = ContextVar("trace carrier", default=None)


def trace_id(carrier: str | None) -> str | None:
    """Return the id of the trace, or None if there is none that can be read."""
    try:
        context = json.loads(carrier or "null")
    except ValueError:
        return None
    given = context.get("traceparent") if isinstance(context, dict) else None
    found = _TRACEPARENT.fullmatch(given) if isinstance(given, str) else None
    return found[1] if found else None


def carrier_of(opts: Mapping[str, Any]) -> str | None:
    """Return the context in the options of a job as they are in Redis, if it can be read."""
    carrier = opts.get("tm")
    return carrier if isinstance(carrier, str) and trace_id(carrier) else None


def current_carrier() -> str | None:
    """Return the context of the job that runs here."""
    return _carrier.get()


@contextmanager
def carrying(carrier: str | None) -> Iterator[None]:
    """Make `carrier` the context of what runs inside."""
    token = _carrier.set(carrier)
    try:
        yield
    finally:
        _carrier.reset(token)
