"""What requests of the admin API say: who is asking, their bodies and queries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from orderflow.api.problems import Kind, Problem
from orderflow.api.reading import read_body
from orderflow.api.state import State, state_of
from orderflow.bull.places import JobPlace
from orderflow.checkout_body import NO_CONTROL_CHARACTERS
from orderflow.operations.audit import Actor
from orderflow.operations.bulk import DEFAULT_PER_SECOND, MOST_PER_SECOND
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import MOST_CHARACTERS

#: A page of a list, and where it may begin.
MAX_LIMIT, DEFAULT_LIMIT = 100, 20
_FURTHEST = 10**12
_LARGEST_ID = 2**63 - 1

#: Jobs that one request removes at most, so that it ends in time; the answer says what is left.
MAX_REMOVED, DEFAULT_REMOVED = 100_000, 10_000

_YEAR_S = 31_536_000

_MONEY_OVER_ZERO = r"^([1-9][0-9]{0,9}\.[0-9]{2}|0\.(0[1-9]|[1-9][0-9]))$"

Text = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL_CHARACTERS)
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Entries of the answer, at most")]
Body = TypeVar("Body", bound="ActionBody")


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        json_schema_extra=lambda schema: schema.pop("title", None),
    )


class ActionBody(_Strict):
    """An action. The reason is for those who read the audit log."""

    reason: str = Field(
        default="", max_length=500, pattern=NO_CONTROL_CHARACTERS, description="Why it is done"
    )


class DrainBody(ActionBody):
    """Which of the jobs that wait are removed."""

    delayed: bool = Field(default=False, description="Those that are delayed, too")
    limit: int = Field(
        default=DEFAULT_REMOVED, ge=1, le=MAX_REMOVED, description="Jobs removed, at most"
    )


class CleanBody(ActionBody):
    """Which of the jobs that ended are removed."""

    state: Literal["failed", "completed"]
    older_than_s: int = Field(ge=0, le=10 * _YEAR_S, description="Seconds since its end, at least")
    limit: int = Field(
        default=DEFAULT_REMOVED, ge=1, le=MAX_REMOVED, description="Jobs removed, at most"
    )


class Rate(_Strict):
    """So many jobs may start in so many milliseconds."""

    max: int = Field(ge=1, le=1_000_000)
    duration_ms: int = Field(ge=1, le=3_600_000)


class RateLimitBody(ActionBody):
    """The rate limit of a queue; null takes it off."""

    rate_limit: Rate | None


class ConcurrencyBody(ActionBody):
    """How many jobs of a queue run at once over all workers; null: as many as they like."""

    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None


class RetryBody(ActionBody):
    """A retry. With `data` the job runs with these; what is still masked stays what it was."""

    data: Any = Field(default=None, description="Any JSON; null leaves the job's own")


class BulkBody(ActionBody):
    """A retry or discard of a whole group."""

    per_second: int = Field(
        default=DEFAULT_PER_SECOND, ge=1, le=MOST_PER_SECOND, description="Jobs a second, at most"
    )


class RefundBody(ActionBody):
    """How much of an order is given back."""

    amount: Annotated[str, StringConstraints(pattern=_MONEY_OVER_ZERO)] | None = Field(
        default=None, description="In the order's currency, two decimals; null for all that is left"
    )


class ShipBody(ActionBody):
    """How an order is sent."""

    carrier: Text
    tracking_number: Text


class ForgetBody(ActionBody):
    """Whether a person is forgotten, or only what would be is told."""

    dry_run: bool = Field(default=False, description="Change nothing, and answer what would be")
    undelivered: bool = Field(
        default=False, description="Also with orders that are paid, and never said to have come"
    )


class AddWebhookBody(ActionBody):
    """Who is to be told, and of what."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=MOST_CHARACTERS)]
    types: Annotated[list[EventType], Field(min_length=1, max_length=len(EventType))]
    description: str = Field(
        default="", max_length=255, pattern=NO_CONTROL_CHARACTERS, description="For people"
    )


class SearchBody(_Strict):
    """What somebody has in hand of an order. In a body, since an address in a URL is logged."""

    find: Text
    limit: Limit = DEFAULT_LIMIT


class JobsQuery(_Strict):
    """Which jobs of a queue."""

    state: str = Field(default="waiting", description=f"One of: {', '.join(JobPlace)}")
    start: int = Field(default=0, ge=0, le=_FURTHEST, description="Jobs before the page")
    limit: Limit = DEFAULT_LIMIT


class GroupsQuery(_Strict):
    """Which groups of failures."""

    queue: str | None = Field(default=None, description="Only groups of this queue")
    within_s: int | None = Field(
        default=None, ge=1, le=10 * _YEAR_S, description="Only groups seen so many seconds ago"
    )
    limit: Limit = DEFAULT_LIMIT


class BeforeQuery(_Strict):
    """Which part of a list that grows."""

    before: int | None = Field(
        default=None, ge=1, le=_LARGEST_ID, description="The last `id` of the page before"
    )
    limit: Limit = DEFAULT_LIMIT


class AuditQuery(BeforeQuery):
    """Which actions."""

    user: Text | None = Field(default=None, description="Only what this user did")
    action: Text | None = Field(default=None, description="Only actions of this name")


class DeliveriesQuery(BeforeQuery):
    """Which deliveries of an endpoint."""

    status: Literal["waiting", "delivered", "given_up"] | None = Field(
        default=None, description="Only those that are so"
    )


class LimitQuery(_Strict):
    """How many."""

    limit: Limit = DEFAULT_LIMIT


async def admin_state(request: Request) -> tuple[State, str]:
    """Return the app's state, and the id of the admin who asks.

    Raises Problem for one that is not known, and for one that is no admin.
    """
    state = state_of(request)
    user = await state.tokens.user(request.headers)
    if not user.admin:
        raise Problem(Kind.FORBIDDEN, 'The token has no `roles` with "admin" in it.')
    return state, user.id


def actor_of(user: str, body: ActionBody) -> Actor:
    """Return who acts, and why."""
    return Actor(user, "api", body.reason)


async def admin_action(request: Request, model: type[Body]) -> tuple[State, Actor, Body]:
    """Return the app's state, who acts and why, and the body that tells what is to be done.

    Raises Problem as `admin_state` and `read_body` do.
    """
    state, user = await admin_state(request)
    body = await read_body(request, model)
    return state, actor_of(user, body), body
