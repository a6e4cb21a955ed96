"""What use cases return, as JSON has it: their dataclasses with names as JavaScript writes them.

The schema of an answer is made from the same class as the answer, so that the two cannot differ.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, get_args, get_origin
from uuid import UUID

Json = dict[str, Any]

_PLAIN: Mapping[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    datetime: {"type": "string", "format": "date-time", "description": "UTC"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}$", "description": "Two decimals"},
    Any: {"description": "Any JSON"},
}


def as_json(value: Any) -> Any:
    """Return what a use case gave as JSON. The names in the data of jobs stay as they are."""
    match value:
        case Mapping():
            return {str(name): as_json(inner) for name, inner in value.items()}
        case list() | tuple():
            return [as_json(inner) for inner in value]
        case None | str() | int() | float() if not isinstance(value, Enum):
            return value
    if is_dataclass(value):
        return {_camel(field.name): as_json(getattr(value, field.name)) for field in fields(value)}
    return _text_of(value)


def _text_of(value: Any) -> str:
    match value:
        case Enum():
            return str(value.value)
        case datetime():
            moment = value.astimezone(UTC).isoformat(timespec="milliseconds")
            return moment.replace("+00:00", "Z")
        case Decimal():
            return f"{value:.2f}"
        case UUID():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def schemas_of(*models: type) -> dict[str, Json]:
    """Return the schemas of the dataclasses and of all that are in them, by name."""
    found: dict[str, Json] = {}
    for model in models:
        _add(model, found)
    return found


def _add(model: type, found: dict[str, Json]) -> None:
    if model.__name__ in found:
        return
    hints = typing.get_type_hints(model)
    properties = {}
    found[model.__name__] = {}
    for field in fields(model):
        properties[_camel(field.name)] = _schema(hints[field.name], found)
    found[model.__name__] = {
        "type": "object",
        "description": (model.__doc__ or "").split("\n\n")[0].replace("\n", " "),
        "properties": properties,
        "required": list(properties),
    }


def _schema(hint: Any, found: dict[str, Json]) -> Json:
    """Return the schema of a type, and add those of the dataclasses in it to `found`."""
    args = get_args(hint)
    match get_origin(hint):
        case typing.Union | types.UnionType:
            return {"anyOf": [_schema(arg, found) for arg in args]}
        case typing.Literal:
            return {"type": "string", "enum": list(args)}
        case collections.abc.Sequence:
            return {"type": "array", "items": _schema(args[0], found)}
        case collections.abc.Mapping:
            return {"type": "object", "additionalProperties": _schema(args[1], found)}
    return dict(_PLAIN[hint]) if hint in _PLAIN else _named(hint, found)


def _named(hint: type, found: dict[str, Json]) -> Json:
    if issubclass(hint, Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    _add(hint, found)
    return {"$ref": f"#/components/schemas/{hint.__name__}"}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
