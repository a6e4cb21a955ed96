"""Commands about orders, and about what was done by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from orderflow.cli.running import NOT_DONE, AsJson, fail, with_stores
from orderflow.cli.showing import clock, console, show_json, table
from orderflow.operations.audit import list_actions
from orderflow.operations.orders import FoundOrder, find_orders
from orderflow.operations.story import Story, tell_story


def orders(
    find: Annotated[
        str,
        typer.Argument(
            help="The id of an order, payment, job, user or transaction, or an e-mail address."
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Orders, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find orders by whatever you have of them; where there is one, tell all that happened to it.

    With --json: a list of orders where there are many, and the story where there is one.
    """
    found = with_stores(lambda stores: find_orders(find, **stores.both, limit=limit))
    if not found:
        fail(f"there is no order that '{find}' is an id or address of", NOT_DONE)
    if len(found) > 1:
        _show_orders(found, as_json)
        return
    story = with_stores(lambda stores: tell_story(str(found[0].id), **stores.both))
    if as_json:
        show_json(story)
    else:
        _show_story(story)


def _show_orders(found: list[FoundOrder], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    columns = ("order", "found by", "status", "payment", "total ", "user", "placed (UTC)")
    rows = (
        (
            order.id,
            order.found_by,
            order.status.value,
            order.payment_status.value,
            f"{order.total:.2f} {order.currency}",
            order.user_id,
            clock(order.created_at),
        )
        for order in found
    )
    console().print(table(columns, rows))


def _show_story(story: Story) -> None:
    typer.echo(
        f"order {story.order_id}: {story.status.value}, payment {story.payment_id} "
        f"{story.payment_status.value}, {story.total:.2f} {story.currency}, "
        f"user {story.user_id or 'not known'}"
    )
    rows = (
        (f"{event.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], event.kind, event.what) for event in story.events
    )
    console().print(table(("at (UTC)", "kind", "what"), rows))


def audit(
    user: Annotated[str | None, typer.Option(help="Only what this user did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only actions of this name.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only before this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Actions, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was done by hand: by whom, when, why, and how it ended. The newest first."""
    actions = with_stores(
        lambda stores: list_actions(
            db=stores.db, limit=limit, before=before, user=user, action=action
        )
    )
    if as_json:
        show_json(actions)
        return
    columns = ("id ", "at (UTC)", "user", "via", "action", "target", "outcome", "reason")
    rows = (
        (
            done.id,
            clock(done.at),
            done.user,
            done.via,
            done.action,
            done.target,
            done.outcome.value if done.outcome else "not ended",
            done.reason,
        )
        for done in actions
    )
    console().print(table(columns, rows))
