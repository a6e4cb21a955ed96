"""How the operations of the admin API are described: those that look, and those that act."""

from __future__ import annotations

from pydantic import BaseModel

from orderflow.api.admin import examples
from orderflow.api.answers import Json
from orderflow.api.operations import Operation, answer, content
from orderflow.api.problems import Kind
from orderflow.api.schemas import REF, ref, untitled

_ADMIN = (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.SIGNING_KEYS_UNAVAILABLE)
REDIS, POSTGRES = (Kind.REDIS_UNAVAILABLE,), (Kind.DATABASE_UNAVAILABLE,)
_BODY = (Kind.NOT_JSON, Kind.BODY_TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE, Kind.INVALID_BODY)
_ACTS = (*_BODY, *REDIS, *POSTGRES)


def in_path(name: str, description: str, example: str) -> Json:
    """Return a parameter that is a part of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


#: The parts of paths, by their name there.
IN_PATH = {
    "queue": in_path("queue", "The queue's name", examples.QUEUE),
    "jobId": in_path(
        "jobId", "The job's id; one with a slash in it is not reached over HTTP", examples.JOB
    ),
    "fingerprint": in_path("fingerprint", "The group's name", examples.GROUP),
    "actionId": in_path("actionId", "The bulk action's id", str(examples.BULK)),
    "orderId": in_path("orderId", "The order's id, or its producer's", str(examples.ORDER)),
    "userId": in_path("userId", "The user's id, as `sub` of the tokens has it", "user-1"),
}


def _query(model: type[BaseModel]) -> list[Json]:
    """Return the parameters of a query, made from what reads it."""
    found = []
    for name, schema in model.model_json_schema(by_alias=True)["properties"].items():
        rules = {**schema, **schema.get("anyOf", [{}])[0]}
        for left_out in ("anyOf", "title"):
            rules.pop(left_out, None)
        if rules.get("default", "") is None:
            del rules["default"]
        description = rules.pop("description")
        found.append({"name": name, "in": "query", "description": description, "schema": rules})
    return found


def body_schema(model: type[BaseModel]) -> Json:
    """Return the schema of a body, made from what reads it."""
    schema = model.model_json_schema(by_alias=True, ref_template=REF)
    schema.pop("$defs", None)
    plain: Json = untitled(schema)
    return plain


def list_of(description: str, name: str, model: str) -> Json:
    """Return the schema of an answer that is a list under a name."""
    return {
        "type": "object",
        "description": description,
        "properties": {name: {"type": "array", "items": ref(model)}},
        "required": [name],
    }


def look(
    operation_id: str,
    summary: str,
    description: str,
    model: str,
    example: Json,
    *problems: Kind,
    path: tuple[str, ...] = (),
    query: type[BaseModel] | None = None,
) -> Operation:
    """Return an operation that changes nothing."""
    asked = _query(query) if query else []
    return Operation(
        id=operation_id,
        tag="admin",
        summary=summary,
        description=description,
        parameters=[*(IN_PATH[name] for name in path), *asked],
        answers={"200": answer(f"{summary}.", model, example)},
        problems=(*_ADMIN, *((Kind.INVALID_QUERY,) if query else ()), *problems),
    )


def act(
    operation_id: str,
    summary: str,
    description: str,
    body: tuple[str, Json],
    model: str,
    example: Json,
    *problems: Kind,
    path: tuple[str, ...],
    status: str = "200",
) -> Operation:
    """Return an operation that is written down in the audit log."""
    return Operation(
        id=operation_id,
        tag="admin",
        summary=summary,
        description=description,
        parameters=[IN_PATH[name] for name in path],
        body=content(*body),
        answers={status: answer(f"{summary}.", model, example)},
        problems=(*_ADMIN, *_ACTS, *problems),
    )
