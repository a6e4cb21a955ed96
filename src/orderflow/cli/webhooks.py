"""Commands about webhooks: who is told of orders, what came of it, and what is sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from orderflow.cli.running import AsJson, Reason, Yes, confirm, operator, with_stores
from orderflow.cli.showing import ago, clock, console, number, show_json, table
from orderflow.webhooks import deliveries as told
from orderflow.webhooks import endpoints as use
from orderflow.webhooks.deliveries import DeliveryStatus, WebhookDelivery
from orderflow.webhooks.endpoints import WebhookEndpoint, WebhookSecret
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import Targets

app = typer.Typer(help="Webhooks: a shop's own systems are told of orders.", no_args_is_help=True)

EndpointArgument = Annotated[
    str, typer.Argument(help="The endpoint's id, as `orderflow webhooks list` has it.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show who is told of orders, and how much waits for whom."""
    found = with_stores(lambda stores: use.list_endpoints(db=stores.db))
    if as_json:
        show_json(found)
    else:
        _show_endpoints(found)


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where they go: https, and a public address.")],
    event: Annotated[
        list[EventType] | None, typer.Option("--event", help="What is told; all unless named.")
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Have URL told of orders from now on. Its secret is printed this once."""
    added = with_stores(
        lambda stores: use.add_endpoint(
            url,
            event or list(EventType),
            description,
            operator(reason),
            db=stores.db,
            targets=Targets(stores.settings.webhooks_allow_private),
        )
    )
    _show_secret(added, as_json)


@app.command()
def rotate(endpoint: EndpointArgument, reason: Reason = "", as_json: AsJson = False) -> None:
    """Give ENDPOINT a new secret, printed this once. The one before signs as well for a day."""
    rotated = with_stores(
        lambda stores: use.rotate_secret(
            use.read_endpoint_id(endpoint), operator(reason), db=stores.db
        )
    )
    _show_secret(rotated, as_json)


@app.command()
def disable(
    endpoint: EndpointArgument, reason: Reason = "", yes: Yes = False, as_json: AsJson = False
) -> None:
    """Tell ENDPOINT nothing more. What waits goes on waiting."""
    confirm(
        f"{endpoint} will never be told of what happens until it is enabled. Disable it?", yes=yes
    )
    who = operator(reason)
    disabled = with_stores(
        lambda stores: use.disable_endpoint(
            use.read_endpoint_id(endpoint), use.disabled_by(who.user, reason), who, db=stores.db
        )
    )
    _show_endpoint(disabled, as_json)


@app.command()
def enable(endpoint: EndpointArgument, reason: Reason = "", as_json: AsJson = False) -> None:
    """Go on telling ENDPOINT, what waits first."""
    enabled = with_stores(
        lambda stores: use.enable_endpoint(
            use.read_endpoint_id(endpoint), operator(reason), db=stores.db
        )
    )
    _show_endpoint(enabled, as_json)


@app.command()
def remove(
    endpoint: EndpointArgument, reason: Reason = "", yes: Yes = False, as_json: AsJson = False
) -> None:
    """Remove ENDPOINT with all of its deliveries."""
    found = with_stores(
        lambda stores: use.get_endpoint(use.read_endpoint_id(endpoint), db=stores.db)
    )
    confirm(
        f"{found.url} will be removed, with {found.waiting:,} deliveries that wait. Remove it?",
        yes=yes,
    )
    removed = with_stores(
        lambda stores: use.remove_endpoint(found.id, operator(reason), db=stores.db)
    )
    if as_json:
        show_json({"deliveries": removed})
    else:
        typer.echo(f"removed, with {removed:,} deliveries")


@app.command()
def deliveries(
    endpoint: EndpointArgument,
    delivery: Annotated[str | None, typer.Argument(help="Only this one, in full.")] = None,
    status: Annotated[DeliveryStatus | None, typer.Option(help="Only those that are so.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only before this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Deliveries, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what ENDPOINT is told, and what came of the last attempt. The newest first."""
    if delivery is not None:
        one = with_stores(
            lambda stores: told.get_delivery(
                use.read_endpoint_id(endpoint), told.read_delivery_id(delivery), db=stores.db
            )
        )
        _show_delivery(one, as_json)
        return
    found = with_stores(
        lambda stores: told.list_deliveries(
            use.read_endpoint_id(endpoint), db=stores.db, status=status, before=before, limit=limit
        )
    )
    if as_json:
        show_json(found)
    else:
        _show_deliveries(found)


@app.command()
def resend(
    endpoint: EndpointArgument,
    delivery: Annotated[
        str | None, typer.Argument(help="Only this one; else all that was given up.")
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Send DELIVERY anew, or all that was given up, under the same ids."""
    who = operator(reason)
    if delivery is not None:
        resent = with_stores(
            lambda stores: told.resend(
                use.read_endpoint_id(endpoint), told.read_delivery_id(delivery), who, db=stores.db
            )
        )
        _show_delivery(resent, as_json)
        return
    count = with_stores(
        lambda stores: told.resend_given_up(use.read_endpoint_id(endpoint), who, db=stores.db)
    )
    if as_json:
        show_json({"resent": count})
    else:
        typer.echo(f"{count:,} deliveries are tried anew")


def _show_secret(told_once: WebhookSecret, as_json: bool) -> None:
    if as_json:
        show_json(told_once)
        return
    _show_endpoints([told_once.endpoint])
    typer.echo(f"\nThe secret, which is not shown again:\n{told_once.secret}")


def _show_endpoint(endpoint: WebhookEndpoint, as_json: bool) -> None:
    if as_json:
        show_json(endpoint)
    else:
        _show_endpoints([endpoint])


def _show_endpoints(found: Sequence[WebhookEndpoint]) -> None:
    columns = (
        "endpoint",
        "url",
        "told of",
        "state",
        "waiting ",
        "given up ",
        "reached ago ",
        "secret",
    )
    rows = (
        (
            endpoint.id,
            endpoint.url,
            ", ".join(event.value.removeprefix("order.") for event in endpoint.types),
            "enabled" if endpoint.enabled else f"disabled {endpoint.disabled_because}",
            number(endpoint.waiting),
            number(endpoint.given_up),
            ago(endpoint.reached_at),
            endpoint.secret,
        )
        for endpoint in found
    )
    console().print(table(columns, rows))


def _show_deliveries(found: Sequence[WebhookDelivery]) -> None:
    columns = ("delivery", "happened (UTC)", "event", "order", "status", "attempts ", "last answer")
    rows = (
        (
            delivery.id,
            clock(delivery.happened_at),
            delivery.type.value,
            delivery.order_id,
            _status(delivery),
            number(delivery.attempts),
            next((a.error or a.status_code for a in delivery.last_attempts), None),
        )
        for delivery in found
    )
    console().print(table(columns, rows))


def _status(delivery: WebhookDelivery) -> str:
    if delivery.status is DeliveryStatus.WAITING:
        return f"due {clock(delivery.due_at)}"
    return delivery.status.value.replace("_", " ")


def _show_delivery(delivery: WebhookDelivery, as_json: bool) -> None:
    if as_json:
        show_json(delivery)
        return
    _show_deliveries([delivery])
    typer.echo(f"\nwebhook-id {delivery.message_id}")
    columns = ("attempt ", "at (UTC)", "took ", "answer", "its beginning")
    rows = (
        (
            tried.attempt,
            clock(tried.at),
            f"{tried.took_ms:,} ms",
            tried.error or tried.status_code,
            tried.answer,
        )
        for tried in delivery.last_attempts
    )
    console().print(table(columns, rows))
