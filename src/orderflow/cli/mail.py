"""Commands about messages: how they look, before anybody gets one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from orderflow.cli.running import NOT_DONE, checked, fail, with_stores
from orderflow.contract import Channel, JobName, row_id
from orderflow.errors import OrderNotFound
from orderflow.orders import Order
from orderflow.senders import Message
from orderflow.senders.messages import Templates
from orderflow.senders.sample import SAMPLE, SAMPLE_EVENT
from orderflow.settings import load_settings

_SAMPLE = "sample"


def preview(
    kind: Annotated[str, typer.Argument(help="As order-confirmation; any other word names all.")],
    language: Annotated[
        str | None, typer.Option(help="A language tag, as de.", show_default="the order's own")
    ] = None,
    order: Annotated[
        str, typer.Option(help="The id of an order, whose customer's address is then shown.")
    ] = _SAMPLE,
    html: Annotated[
        bool, typer.Option("--html", help="Print the HTML alone, as for a browser.")
    ] = False,
) -> None:
    """Print the mail and the SMS of a KIND as they would be now. Nothing is sent.

    What is told of a shipment or a refund is made up, also for an order of yours.
    """
    settings = checked(load_settings)
    templates = checked(lambda: Templates(settings.templates_dir, settings.default_language))
    if kind not in templates.kinds:
        fail(f"KIND: must be one of {', '.join(templates.kinds)}")
    about = SAMPLE if order == _SAMPLE else _find(order)
    if language is not None:
        about = replace(about, languages=(language,))
    mail, sms = (_render(templates, JobName(kind), channel, about) for channel in Channel)
    if language is not None and not f"{language.lower()}-".startswith(f"{mail.language}-"):
        typer.echo(f"there is none in '{language}': this is in '{mail.language}'", err=True)
    if not html:
        typer.echo(f"Subject: {mail.subject}\n\n{mail.text}\n\nSMS: {sms.text}")
    elif mail.html is None:
        fail("this mail has no HTML", NOT_DONE)
    else:
        typer.echo(mail.html)


def _find(order_id: str) -> Order:
    row = with_stores(lambda stores: stores.db.fetchrow("find_order", row_id(order_id)))
    if row is None:
        fail(str(OrderNotFound(order_id=order_id)), NOT_DONE)
    return Order.from_row(row)


def _render(templates: Templates, kind: JobName, channel: Channel, order: Order) -> Message:
    return checked(lambda: templates.render(kind, channel, order, "", SAMPLE_EVENT))
