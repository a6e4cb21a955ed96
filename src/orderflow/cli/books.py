"""The command that compares the gateway's books with ours."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from orderflow.api.answers import as_json
from orderflow.books import (
    GRACE,
    Comparison,
    Difference,
    compare_books,
    open_differences,
    refund_strays,
)
from orderflow.cli.running import AsJson, Reason, checked, operator, run
from orderflow.cli.showing import clock, console, show_json, table
from orderflow.logs import configure_logs
from orderflow.operations.audit import audited
from orderflow.resources import open_resources
from orderflow.settings import Settings, load_settings


def books(
    days: Annotated[int, typer.Option(min=1, max=366, help="How far back to compare.")] = 2,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")] = False,
    as_json: AsJson = False,
    refund_stray: Annotated[
        bool,
        typer.Option("--refund-stray", help="Give back stray charges of cancelled orders."),
    ] = False,
    reason: Reason = "",
) -> None:
    """Compare what the gateway has of charges and refunds with ours; show where they differ.

    Outcomes that were never written are written. What differs still is kept
    until it is gone.

    Exit status: 0 nothing differs, 1 something does.
    """
    settings = checked(lambda: load_settings(log_format="console"))
    configure_logs(settings.log_format, "error")
    compared, differences, refunds = run(_compare(settings, days, refund_stray, reason))
    if as_json:
        show_json({"compared": compared.to_json(), "differences": differences})
    elif as_csv:
        _print_csv(differences)
    else:
        _print(compared, differences)
    if refund_stray:
        typer.echo(f"{refunds} refunds of stray charges begun", err=True)
    raise typer.Exit(bool(differences))


async def _compare(
    settings: Settings, days: int, refund_stray: bool, reason: str
) -> tuple[Comparison, list[Difference], int]:
    until = datetime.now(UTC) - GRACE
    refunds = 0
    async with open_resources(settings) as resources:
        db = resources.db
        compared = await compare_books(
            until - timedelta(days=days), until, db=db, gateway=resources.gateway
        )
        if refund_stray:
            async with audited(operator(reason), "refund stray charges", "books", db=db) as note:
                refunds = await refund_strays(db=db, queues=resources.queues)
                note.details["refunds"] = refunds
        return compared, list(await open_differences(db=db)), refunds


def _print(compared: Comparison, differences: list[Difference]) -> None:
    sums = compared.to_json()
    typer.echo(
        f"{sums['charges']} charges and {sums['refunds']} refunds compared, "
        f"{sums['repaired']} outcomes written, {len(differences)} differences"
    )
    if differences:
        columns = ("made (UTC)", "entry", "how", "ours ", "theirs ", "payment", "transaction")
        console().print(table((*columns, "done about it"), map(_row, differences)))


def _row(difference: Difference) -> tuple[object, ...]:
    return (
        clock(difference.made_at),
        difference.entry.value,
        difference.kind.value,
        difference.ours,
        difference.theirs and f"{difference.theirs} {difference.currency}",
        difference.payment_id,
        difference.transaction_id,
        difference.repair,
    )


def _print_csv(differences: Iterable[Difference]) -> None:
    names = [field.name for field in fields(Difference) if field.name != "settled"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for difference in differences:
        writer.writerow(as_json(getattr(difference, name)) for name in names)
