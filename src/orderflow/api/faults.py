"""Faults in a request: which part breaks which rule. Rules are stable, for programs to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orderflow.checkout_body import NO_CONTROL_CHARACTERS

#: The rule of a body that is no JSON at all, which is another kind of problem.
JSON = "json"

#: The rule behind each of pydantic's error types; {names} are of the error's context.
_RULES = {
    "json_invalid": JSON,
    "missing": "required",
    "extra_forbidden": "no-unknown-fields",
    "greater_than_equal": "greater-than-equal {ge}",
    "less_than_equal": "less-than-equal {le}",
    "string_too_short": "length-at-least {min_length}",
    "string_too_long": "length-at-most {max_length}",
    "too_short": "items-at-least {min_length}",
    "too_long": "items-at-most {max_length}",
    "string_pattern_mismatch": "pattern {pattern}",
    "enum": "one-of {expected}",
    "string_type": "string",
    "int_type": "integer",
    "int_parsing": "integer",
    "int_from_float": "integer",
    "list_type": "array",
    "model_type": "object",
}

#: A request may break a rule ten thousand times; who sent it reads no more than these.
MAX_FAULTS = 100

Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One part of a request that breaks a rule.

    `field` is a JSON pointer into the body, or the name of a header or query parameter.
    """

    field: str
    rule: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """Return the entry of the problem's `errors`."""
        return asdict(self)


def json_pointer(location: Location) -> str:
    """Return the RFC 6901 pointer of a place in a body."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)


def parameter_name(location: Location) -> str:
    """Return the name of the query parameter at a place in a query."""
    return str(location[0])


def faults_of(error: ValidationError, field: Callable[[Location], str]) -> list[Fault]:
    """Return the first MAX_FAULTS that pydantic found, the place of each named by `field`."""
    return [
        Fault(field=field(found["loc"]), rule=_rule(found), detail=found["msg"])
        for found in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]
    ]


def _rule(found: ErrorDetails) -> str:
    kind, context = found["type"], found.get("ctx", {})
    if kind == "value_error" and "reason" in context:
        # The only custom type whose error has a reason is pydantic's EmailStr.
        return "email"
    if context.get("pattern") == NO_CONTROL_CHARACTERS:
        return "no-control-characters"
    rule = _RULES.get(kind)
    return rule.format(**_plain(context)) if rule else kind.replace("_", "-")


def _plain(context: dict[str, Any]) -> dict[str, Any]:
    """Turn "'a', 'b' or 'c'" into "a, b, c"; leave the rest."""
    if "expected" in context:
        return context | {"expected": context["expected"].replace("'", "").replace(" or ", ", ")}
    return context
