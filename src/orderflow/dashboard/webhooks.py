"""Webhooks: who is told of orders, what came of each attempt, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

from starlette.responses import Response

from orderflow.dashboard.actions import (
    Field,
    InvalidField,
    Question,
    asked_first,
    line_of_text,
)
from orderflow.dashboard.pages import Context, View, Visit
from orderflow.dashboard.urls import webhook_url
from orderflow.errors import WebhookUrlRefused
from orderflow.operations.audit import Actor
from orderflow.webhooks import deliveries as told
from orderflow.webhooks import endpoints as use
from orderflow.webhooks.deliveries import DeliveryStatus
from orderflow.webhooks.endpoints import WebhookEndpoint, WebhookSecret
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import MOST_CHARACTERS, Targets

PAGE = 25
_MOST_CHARACTERS = 255


async def show_endpoints(visit: Visit) -> Response:
    """Answer all endpoints."""

    async def look() -> Context:
        return {"endpoints": await use.list_endpoints(db=visit.resources.db)}

    return await visit.live("webhooks", look)


async def show_endpoint(visit: Visit) -> Response:
    """Answer an endpoint, with its deliveries in one status or in all, a page of them."""
    endpoint_id, asked = _endpoint_id(visit), visit.query("status")
    status = DeliveryStatus(asked) if asked in set(DeliveryStatus) else None
    before = visit.number("before") or None

    async def look() -> Context:
        db = visit.resources.db
        endpoint, found = await asyncio.gather(
            use.get_endpoint(endpoint_id, db=db),
            told.list_deliveries(endpoint_id, db=db, status=status, before=before, limit=PAGE + 1),
        )
        return {
            "endpoint": endpoint,
            "deliveries": found[:PAGE],
            "more": len(found) > PAGE,
            "chosen": status,
            "statuses": list(DeliveryStatus),
        }

    return await visit.live("webhook", look)


async def show_delivery(visit: Visit) -> Response:
    """Answer one delivery, with every attempt."""
    endpoint_id, delivery_id = _endpoint_id(visit), _delivery_id(visit)

    async def look() -> Context:
        db = visit.resources.db
        endpoint, delivery = await asyncio.gather(
            use.get_endpoint(endpoint_id, db=db),
            told.get_delivery(endpoint_id, delivery_id, db=db),
        )
        return {"endpoint": endpoint, "delivery": delivery}

    return await visit.live("webhook_delivery", look)


async def _ask_add(_visit: Visit) -> Question:
    return Question(
        title="Add a webhook endpoint",
        says=(
            "It is told of what happens from now on. Its secret is shown on the next page, and "
            "never again."
        ),
        button="Add it",
        fields=(
            Field("url", "URL", hint="It must be https, and lead to a public address."),
            Field("description", "Description", hint="For people."),
            *(Field(event.value, event.value, "yes", kind="check") for event in EventType),
        ),
    )


async def _add(visit: Visit, actor: Actor) -> Response:
    url = line_of_text(visit.form, "url", MOST_CHARACTERS)
    description = visit.form.get("description", "").strip()
    if description:
        description = line_of_text(visit.form, "description", _MOST_CHARACTERS)
    types = [event for event in EventType if visit.form.get(event.value)]
    if not types:
        raise InvalidField(EventType.CONFIRMED.value, "or another one must be chosen")
    resources = visit.resources
    targets = Targets(resources.settings.webhooks_allow_private)
    try:
        added = await use.add_endpoint(
            url, types, description, actor, db=resources.db, targets=targets
        )
    except WebhookUrlRefused as error:
        raise InvalidField("url", f"is refused: {error.reason}") from None
    return _show_secret(visit, added)


async def _ask_rotate(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    return Question(
        title="Give the endpoint a new secret",
        says=(
            f"{endpoint.url} is sent two signatures for a day: one by the new secret, and one by "
            f"that which it has now ({endpoint.secret}).\n"
            "The new secret is shown on the next page, and never again."
        ),
        button="Make a new secret",
    )


async def _rotate(visit: Visit, actor: Actor) -> Response:
    rotated = await use.rotate_secret(_endpoint_id(visit), actor, db=visit.resources.db)
    return _show_secret(visit, rotated)


async def _ask_enable(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    return Question(
        title="Enable the endpoint",
        says=(
            f"{endpoint.url} is told of what happens from now on. {endpoint.waiting:,} deliveries "
            "that wait go out at once."
        ),
        button="Enable it",
    )


async def _enable(visit: Visit, actor: Actor) -> None:
    await use.enable_endpoint(_endpoint_id(visit), actor, db=visit.resources.db)


async def _ask_disable(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    return Question(
        title="Disable the endpoint",
        says=(
            f"{endpoint.url} is sent nothing until it is enabled. {endpoint.waiting:,} deliveries "
            "wait until then; what happens meanwhile it is never told."
        ),
        button="Disable it",
        dangerous=True,
    )


async def _disable(visit: Visit, actor: Actor) -> None:
    because = use.disabled_by(actor.user, actor.reason)
    await use.disable_endpoint(_endpoint_id(visit), because, actor, db=visit.resources.db)


async def _ask_remove(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    return Question(
        title="Remove the endpoint",
        says=(
            f"{endpoint.url} is removed with all of its deliveries. {endpoint.waiting:,} of them "
            "wait, and will never be made. This cannot be undone."
        ),
        button="Remove it",
        dangerous=True,
    )


async def _remove(visit: Visit, actor: Actor) -> str:
    await use.remove_endpoint(_endpoint_id(visit), actor, db=visit.resources.db)
    return "/admin/webhooks?acted=1"


async def _ask_resend_all(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    return Question(
        title="Try anew what was given up",
        says=(
            f"{endpoint.given_up:,} deliveries to {endpoint.url} were given up. They go out again "
            f"under the same ids, the oldest {told.MOST_RESENT:,}, and are tried for days again."
        ),
        button="Try them anew",
    )


async def _resend_all(visit: Visit, actor: Actor) -> None:
    await told.resend_given_up(_endpoint_id(visit), actor, db=visit.resources.db)


async def _ask_resend(visit: Visit) -> Question:
    endpoint = await _endpoint(visit)
    delivery = await told.get_delivery(endpoint.id, _delivery_id(visit), db=visit.resources.db)
    waits = "" if endpoint.enabled else " It goes out once the endpoint is enabled."
    return Question(
        title=f"Send delivery {delivery.id} anew",
        says=(
            f"{endpoint.url} is told again of {delivery.type.value} of order {delivery.order_id}, "
            f"under the same id, by which it may know it already.{waits}"
        ),
        button="Send it anew",
    )


async def _resend(visit: Visit, actor: Actor) -> None:
    await told.resend(_endpoint_id(visit), _delivery_id(visit), actor, db=visit.resources.db)


def _back_to_endpoints(_visit: Visit) -> str:
    return "/admin/webhooks"


def _back_to_endpoint(visit: Visit) -> str:
    return webhook_url(_endpoint_id(visit))


def _back_to_delivery(visit: Visit) -> str:
    return webhook_url(_endpoint_id(visit), _delivery_id(visit))


add_endpoint = asked_first(_ask_add, _add, _back_to_endpoints)

ENDPOINT_ACTIONS: Mapping[str, View] = {
    "rotate": asked_first(_ask_rotate, _rotate, _back_to_endpoint),
    "enable": asked_first(_ask_enable, _enable, _back_to_endpoint),
    "disable": asked_first(_ask_disable, _disable, _back_to_endpoint),
    "remove": asked_first(_ask_remove, _remove, _back_to_endpoint),
    "resend": asked_first(_ask_resend_all, _resend_all, _back_to_endpoint),
}
DELIVERY_ACTIONS: Mapping[str, View] = {
    "resend": asked_first(_ask_resend, _resend, _back_to_delivery)
}


async def _endpoint(visit: Visit) -> WebhookEndpoint:
    return await use.get_endpoint(_endpoint_id(visit), db=visit.resources.db)


def _endpoint_id(visit: Visit) -> UUID:
    return use.read_endpoint_id(visit.path("endpoint_id"))


def _delivery_id(visit: Visit) -> int:
    return told.read_delivery_id(visit.path("delivery_id"))


def _show_secret(visit: Visit, told_once: WebhookSecret) -> Response:
    # In the answer itself: an address that it could be shown at would end in a history.
    return visit.render("webhook_secret.html", told_once=told_once)
