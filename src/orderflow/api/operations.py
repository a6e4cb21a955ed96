"""The parts that operations of the OpenAPI document are put together from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orderflow.api.idempotency_key import MAX_KEY
from orderflow.api.problems import PASSING, Kind
from orderflow.api.schemas import ref

Json = dict[str, Any]

#: Anyone may meet these anywhere: they are every operation's `default` answer.
_ANYWHERE = (
    Kind.MALFORMED_REQUEST,
    Kind.NOT_FOUND,
    Kind.METHOD_NOT_ALLOWED,
    Kind.REQUEST_TIMEOUT,
    Kind.BODY_TOO_LARGE,
    Kind.HEAD_TOO_LARGE,
    Kind.INTERNAL_ERROR,
    Kind.TOO_MANY_CONNECTIONS,
)

#: The headers that a problem has beside its body: of which kinds, and what for.
_PROBLEM_HEADERS = {
    "WWW-Authenticate": ({Kind.UNAUTHENTICATED}, "How to authenticate, as RFC 6750 has it"),
    "Retry-After": (PASSING, "Seconds to wait before trying again"),
    "Accept": ({Kind.UNSUPPORTED_MEDIA_TYPE}, "What a body may be"),
    "Allow": ({Kind.METHOD_NOT_ALLOWED}, "The methods that are allowed"),
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path. `problems` are the kinds it answers with beside its `answers`."""

    id: str
    tag: str
    summary: str
    description: str
    answers: Json
    problems: tuple[Kind, ...] = ()
    parameters: list[Json] = field(default_factory=list)
    body: Json | None = None
    public: bool = False

    def to_json(self) -> Json:
        """Return the operation as OpenAPI has it."""
        problems = {
            str(status): _problem(tuple(kind for kind in self.problems if kind.status == status))
            for status in sorted({kind.status for kind in self.problems})
        }
        operation: Json = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
            "security": [] if self.public else [{"bearer": []}],
            "responses": {**self.answers, **problems, "default": _problem(_ANYWHERE)},
        }
        if self.parameters:
            operation["parameters"] = self.parameters
        if self.body:
            operation["requestBody"] = {"required": True, "content": self.body}
        return operation


def answer(description: str, model: str, example: Json) -> Json:
    """Return an answer whose body is a JSON object."""
    return {"description": description, "content": content(model, example)}


def content(model: str, example: Json) -> Json:
    """Return the content of a body that is a JSON object."""
    return {"application/json": {"schema": ref(model), "example": example}}


def header(description: str, **rules: Any) -> Json:
    """Return a header of an answer."""
    return {"description": description, "schema": {"type": "string", **rules}}


def query(name: str, description: str, **rules: Any) -> Json:
    """Return a query parameter that may be left out."""
    return {"name": name, "in": "query", **header(description, **rules)}


def idempotency_key(needed: str, *, required: bool = False) -> Json:
    """Return the header that names a request; `needed` says when it is."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": required,
        "description": f"Names this request: 1 to {MAX_KEY} printable ASCII characters, bare or as "
        f"a quoted string. {needed}",
        "schema": {"type": "string"},
        "example": '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
    }


def _problem(kinds: tuple[Kind, ...]) -> Json:
    """Return the answer that is a problem of one of these kinds."""
    examples = {kind.label: {"value": _problem_example(kind)} for kind in kinds}
    problem: Json = {
        "description": "; ".join(kind.title for kind in kinds) + ".",
        "content": {"application/problem+json": {"schema": ref("Problem"), "examples": examples}},
    }
    headers = {
        name: header(description)
        for name, (when, description) in _PROBLEM_HEADERS.items()
        if not when.isdisjoint(kinds)
    }
    return problem | ({"headers": headers} if headers else {})


def _problem_example(kind: Kind) -> Json:
    return {
        "type": kind.urn,
        "title": kind.title,
        "status": kind.status,
        "detail": f"{kind.title}.",
        "instance": "/checkout",
    }
