"""Endpoints: who is told of orders, by whom it was made so, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import httpx

from orderflow.db import Database
from orderflow.errors import WebhookEndpointNotFound
from orderflow.operations.audit import Actor, audited
from orderflow.orders import Row
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.signing import fingerprint, new_secret
from orderflow.webhooks.targets import Targets, host_of

#: So long the secret before the last one signs, too.
OLD_SECRET_S = 86_400
#: More are not counted.
COUNTED = 10_000
_REMOVED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where messages of some types go, and how that goes.

    `secret` is what its secret is recognised by: the first 8 digits of its SHA-256. The one before
    signs as well until `old_secret_until`. `waiting` and `given_up` count deliveries, 10,000 at
    most.
    """

    id: UUID
    url: str
    description: str
    types: Sequence[EventType]
    enabled: bool
    disabled_because: str | None
    secret: str
    old_secret_until: datetime | None
    waiting: int
    given_up: int
    reached_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """An endpoint with its secret, which is told this once."""

    endpoint: WebhookEndpoint
    secret: str = field(repr=False)


async def list_endpoints(*, db: Database) -> list[WebhookEndpoint]:
    """Return all endpoints, the oldest first."""
    return list(map(_read, await db.fetch("webhook_endpoints", None, COUNTED)))


async def get_endpoint(endpoint_id: UUID, *, db: Database) -> WebhookEndpoint:
    """Return one endpoint. Raises WebhookEndpointNotFound."""
    row = await db.fetchrow("webhook_endpoints", endpoint_id, COUNTED)
    if row is None:
        raise WebhookEndpointNotFound(endpoint_id=endpoint_id)
    return _read(row)


def read_endpoint_id(given: str) -> UUID:
    """Return the id that a text is. Raises WebhookEndpointNotFound."""
    try:
        return UUID(given)
    except ValueError:
        raise WebhookEndpointNotFound(endpoint_id=given) from None


async def add_endpoint(
    url: str,
    types: Sequence[EventType],
    description: str,
    actor: Actor,
    *,
    db: Database,
    targets: Targets,
) -> WebhookSecret:
    """Have a URL told of all that happens from now on. Raises WebhookUrlRefused."""
    endpoint_id, secret = uuid4(), new_secret()
    wanted = list(dict.fromkeys(types))
    async with audited(actor, "add webhook", str(endpoint_id), db=db) as note:
        found = await targets.check(url)
        # Of the URL the host alone: many have a secret of their own in their path.
        note.details |= {"host": host_of(found), "types": wanted, "secret": fingerprint(secret)}
        await db.fetchrow("add_webhook_endpoint", endpoint_id, url, description, wanted, secret)
    return WebhookSecret(await get_endpoint(endpoint_id, db=db), secret)


async def rotate_secret(endpoint_id: UUID, actor: Actor, *, db: Database) -> WebhookSecret:
    """Give an endpoint a new secret; the one before signs as well for a day.

    Raises WebhookEndpointNotFound.
    """
    secret = new_secret()
    details = {"secret": fingerprint(secret)}
    async with audited(actor, "rotate webhook secret", str(endpoint_id), db=db, details=details):
        if await db.fetchrow("rotate_webhook_secret", endpoint_id, secret, OLD_SECRET_S) is None:
            raise WebhookEndpointNotFound(endpoint_id=endpoint_id)
    return WebhookSecret(await get_endpoint(endpoint_id, db=db), secret)


async def enable_endpoint(endpoint_id: UUID, actor: Actor, *, db: Database) -> WebhookEndpoint:
    """Go on telling an endpoint, also of what waits. Raises WebhookEndpointNotFound."""
    async with audited(actor, "enable webhook", str(endpoint_id), db=db) as note:
        await get_endpoint(endpoint_id, db=db)
        row = await db.fetchrow("enable_webhook_endpoint", endpoint_id)
        note.details["was enabled"] = row is None
    return await get_endpoint(endpoint_id, db=db)


async def disable_endpoint(
    endpoint_id: UUID, because: str, actor: Actor, *, db: Database
) -> WebhookEndpoint:
    """Tell an endpoint nothing more: what waits goes on waiting, and nothing new is kept for it.

    Raises WebhookEndpointNotFound.
    """
    async with audited(actor, "disable webhook", str(endpoint_id), db=db) as note:
        await get_endpoint(endpoint_id, db=db)
        row = await db.fetchrow("disable_webhook_endpoint", endpoint_id, because)
        note.details |= {"because": because, "was disabled": row is None}
    return await get_endpoint(endpoint_id, db=db)


def disabled_by(user: str, reason: str) -> str:
    """Return why an endpoint is disabled that somebody has disabled."""
    return f"by {user}: {reason}" if reason else f"by {user}"


async def remove_endpoint(endpoint_id: UUID, actor: Actor, *, db: Database) -> int:
    """Remove an endpoint with all of its deliveries; return how many. Raises as the others do."""
    async with audited(actor, "remove webhook", str(endpoint_id), db=db) as note:
        endpoint = await get_endpoint(endpoint_id, db=db)
        host = host_of(httpx.URL(endpoint.url))
        note.details |= {"host": host, "waiting": endpoint.waiting}
        await db.fetchrow("disable_webhook_endpoint", endpoint_id, "it is being removed")
        removed = 0
        while rows := await db.fetch("remove_webhook_deliveries", endpoint_id, _REMOVED_AT_ONCE):
            removed += len(rows)
        await db.fetchrow("remove_webhook_endpoint", endpoint_id)
        note.details["deliveries"] = removed
    return removed


def _read(row: Row) -> WebhookEndpoint:
    fields = {name: row[name] for name in WebhookEndpoint.__slots__}
    fields["types"] = [EventType(name) for name in row["types"]]
    fields["secret"] = fingerprint(row["secret"])
    return WebhookEndpoint(**fields)
