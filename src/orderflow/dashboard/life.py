"""What is done to an order by hand: it is cancelled, shipped, delivered, refunded."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from decimal import Decimal

from orderflow.dashboard.actions import (
    Field,
    InvalidField,
    Question,
    asked_first,
    line_of_text,
)
from orderflow.dashboard.pages import View, Visit
from orderflow.dashboard.urls import order_url
from orderflow.operations import life as use
from orderflow.operations.audit import Actor
from orderflow.operations.story import Story, tell_story
from orderflow.orders import OrderStatus, PaymentStatus

_MOST_CHARACTERS = 255
_AMOUNT = re.compile(r"\d{1,10}\.\d{2}")


def possible(story: Story) -> list[tuple[str, str]]:
    """Return what can be done to the order as it is, each with its name."""
    found = []
    match story.status:
        case OrderStatus.PENDING | OrderStatus.PROCESSING:
            found = [("cancel", "Cancel the order")]
        case OrderStatus.CONFIRMED:
            found = [("ship", "Ship"), ("cancel", "Cancel the order")]
        case OrderStatus.SHIPPED:
            found = [("deliver", "Mark as delivered")]
    if story.payment_status is PaymentStatus.COMPLETED:
        found.append(("refund", "Refund"))
    return found


async def _ask_cancel(visit: Visit) -> Question:
    story = await _story(visit)
    return Question(
        title=f"Cancel order {story.order_id}",
        says=(
            f"It is {story.status}. Its stock goes back, money that was taken goes back, and its "
            "customer is told. This cannot be undone."
        ),
        button="Cancel the order",
        dangerous=True,
    )


async def _cancel(visit: Visit, actor: Actor) -> None:
    await use.cancel_order(visit.path("order_id"), actor, **visit.stores)


async def _ask_ship(visit: Visit) -> Question:
    story = await _story(visit)
    return Question(
        title=f"Ship order {story.order_id}",
        says="It is marked as shipped, and its customer is told by what it comes.",
        button="Mark as shipped",
        fields=(Field("carrier", "Carrier"), Field("tracking_number", "Tracking number")),
    )


async def _ship(visit: Visit, actor: Actor) -> None:
    await use.ship_order(
        visit.path("order_id"),
        line_of_text(visit.form, "carrier", _MOST_CHARACTERS),
        line_of_text(visit.form, "tracking_number", _MOST_CHARACTERS),
        actor,
        **visit.stores,
    )


async def _ask_deliver(visit: Visit) -> Question:
    story = await _story(visit)
    return Question(
        title=f"Mark order {story.order_id} as delivered",
        says="It has come to its customer, who is told so.",
        button="Mark as delivered",
    )


async def _deliver(visit: Visit, actor: Actor) -> None:
    await use.deliver_order(visit.path("order_id"), actor, **visit.stores)


async def _ask_refund(visit: Visit) -> Question:
    story = await _story(visit)
    return Question(
        title=f"Refund order {story.order_id}",
        says=(
            f"Money is given back to its customer, who is told so. The order came to "
            f"{story.total} {story.currency}.\n"
            "This cannot be undone. The story tells when the gateway has done it."
        ),
        button="Give the money back",
        fields=(
            Field("amount", "Amount", hint="As 12.50. Empty: all that was not given back yet."),
            # A form that is sent twice is one refund.
            Field("key", "Key", secrets.token_urlsafe(16), kind="hidden"),
        ),
        dangerous=True,
    )


async def _refund(visit: Visit, actor: Actor) -> None:
    amount = visit.form.get("amount", "").strip()
    if amount and (not _AMOUNT.fullmatch(amount) or not Decimal(amount)):
        raise InvalidField("amount", "must be more than zero with two decimals, or empty")
    await use.refund_order(
        visit.path("order_id"),
        Decimal(amount) if amount else None,
        line_of_text(visit.form, "key", _MOST_CHARACTERS),
        actor,
        **visit.stores,
    )


def _back(visit: Visit) -> str:
    return order_url(visit.path("order_id"))


ORDER_ACTIONS: Mapping[str, View] = {
    "cancel": asked_first(_ask_cancel, _cancel, _back),
    "ship": asked_first(_ask_ship, _ship, _back),
    "deliver": asked_first(_ask_deliver, _deliver, _back),
    "refund": asked_first(_ask_refund, _refund, _back),
}


async def _story(visit: Visit) -> Story:
    return await tell_story(visit.path("order_id"), **visit.stores)
