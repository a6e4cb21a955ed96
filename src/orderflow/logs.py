"""Logging: structured lines with order, payment and job ids in them, and never a secret."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal

import structlog

#: Fields whose value never reaches a log, wherever they come from.
SECRET_FIELDS = frozenset(
    {
        "authorization",
        "api_key",
        "card",
        "client_secret",
        "clientsecret",
        "cvc",
        "password",
        "payment_token",
        "paymenttoken",
        "secret",
        "token",
    }
)


_context: ContextVar[Mapping[str, Any]] = ContextVar("log context", default=MappingProxyType({}))


@contextmanager
def log_context(fields: Mapping[str, Any]) -> Iterator[None]:
    """Put `fields` into every line of what runs inside.

    As structlog's bound_contextvars, at a tenth of its cost: it is entered for every job.
    """
    token = _context.set(fields)
    try:
        yield
    finally:
        _context.reset(token)


def current_trace_id() -> str | None:
    """Return the `trace_id` of the lines that are written here, if they have one."""
    return _context.get().get("trace_id")


def _add_context(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {**_context.get(), **event}


def mask_secrets(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace the value of every field that is named like a secret, at any depth."""
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: str, value: Any) -> Any:
    if key.lower() in SECRET_FIELDS and value is not None:
        return "***"
    if isinstance(value, dict):
        return {name: _masked(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", inner) for inner in value]
    return value


#: Made once; json.dumps would make one for every line.
_encode = json.JSONEncoder(default=repr).encode


def _to_json(event: Any, **_options: Any) -> str:
    return _encode(event)


class _Lines(structlog.WriteLogger):
    """Writes lines to standard error, and knows the name of what they are from.

    Not a logger of the standard library: what that adds costs more than the line.
    """

    def __init__(self, name: str = "root") -> None:
        super().__init__(sys.stderr)
        self.name = name


def configure_logs(log_format: Literal["json", "console"], level: str) -> None:
    """Send structlog's and the standard library's lines to standard error in one form."""
    shared: list[structlog.typing.Processor] = [
        _add_context,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        mask_secrets,
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json)]
        if log_format == "json"
        # A plain traceback: the pretty ones print local variables, and those hold secrets.
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # httpx logs every request with its address at info; the gateway's outcome says more.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=_Lines,
        # What the level keeps out costs nothing: there is a line for every step of every order.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
