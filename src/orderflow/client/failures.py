"""What can go wrong for a client: errors that say all that the shop said, and never a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from orderflow.errors import OrderflowError


class Problem(OrderflowError):
    """{method} {path} was answered {status}: {reason}."""

    # What RFC 9457 has: programs go by `type`, or `kind`; `detail` is for people.
    status: int
    type: str
    title: str
    detail: str
    #: What is wrong with the request, by the field: a JSON pointer into the body, or the name of a
    #: header or query parameter.
    errors: Mapping[str, tuple[Fault, ...]]
    #: What this type of problem has beside, as `sku` of `out-of-stock`.
    members: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The last part of `type`, as `out-of-stock`."""
        return self.type.rpartition(":")[2]


class Unanswered(OrderflowError):
    """{method} {path} got no answer in {waited_s:.1f} s, by {tries} tries: {reason}."""

    # What became of it is not known. With the same `idempotency_key` it can be asked for again.
    idempotency_key: str | None
    #: Of the last try: 503, say, or None where there was no answer at all.
    status: int | None
    tries: int
    waited_s: float


class UnreadableAnswer(OrderflowError):
    """{method} {path} was answered {status}, but not by this API: {reason}."""

    status: int


class Fault(BaseModel):
    """One part of a request that breaks a rule. `rule` is stable, for programs."""

    model_config = ConfigDict(frozen=True)

    field: str
    rule: str
    detail: str


class _Body(BaseModel):
    """A problem as it is written. What is not there has the meaning that RFC 9457 gives it."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    instance: str = ""
    errors: tuple[Fault, ...] = ()


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem that an answer is, also one of a proxy that has never heard of them."""
    try:
        body = _Body.model_validate_json(response.content)
    except ValidationError:
        body = _Body()
    title = body.title or response.reason_phrase or "an unknown status"
    detail = body.detail or f"{title}."
    errors: dict[str, tuple[Fault, ...]] = {}
    for fault in body.errors:
        errors[fault.field] = (*errors.get(fault.field, ()), fault)
    members = dict(body.model_extra or {})
    members.pop("status", None)
    return Problem(
        method=response.request.method,
        path=response.request.url.path,
        status=response.status_code,
        type=body.type,
        title=title,
        detail=detail,
        reason=detail.rstrip(".") + (f" ({', '.join(errors)})" if errors else ""),
        errors=errors,
        members=members,
    )


def unreadable(response: httpx.Response, reason: str) -> UnreadableAnswer:
    """Return the error of an answer that another server than this API must have given."""
    return UnreadableAnswer(
        method=response.request.method,
        path=response.request.url.path,
        status=response.status_code,
        reason=reason,
    )
