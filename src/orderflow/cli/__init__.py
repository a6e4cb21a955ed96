"""The command line: `orderflow …`. Each command is a function of its name in one of the files."""

from __future__ import annotations

from typing import Annotated

import typer

from orderflow import __version__
from orderflow.cli import (
    books,
    data,
    failures,
    jobs,
    mail,
    orders,
    queues,
    sandbox,
    shop,
    top,
    webhooks,
)

app = typer.Typer(
    help="Order processing: every checkout is carried to its end.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
products_app = typer.Typer(help="The catalogue.", no_args_is_help=True)
app.add_typer(products_app, name="products", rich_help_panel="The shop")
products_app.command("load")(shop.products_load)
mail_app = typer.Typer(help="Mails and SMS.", no_args_is_help=True)
app.add_typer(mail_app, name="mail", rich_help_panel="The shop")
mail_app.command("preview")(mail.preview)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel="The shop")

_COMMANDS = {
    "The shop": (shop.migrate, shop.reconcile, shop.doctor, shop.token),
    "Queues and workers": (
        *(queues.queues, top.workers, top.top),
        *(queues.pause, queues.resume, queues.limit, queues.drain, queues.clean),
    ),
    "Jobs and failures": (
        *(jobs.jobs, failures.failures, jobs.retry, jobs.promote, jobs.requeue, jobs.remove),
        *(failures.retry_group, failures.discard_group, failures.bulk),
    ),
    "Orders": (orders.orders, orders.audit, books.books),
    "What is kept": (data.purge, data.forget, data.orphans),
    "On this machine": (sandbox.up, sandbox.rehearse, sandbox.chaos),
}
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
