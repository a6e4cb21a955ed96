"""Commands about what is kept: old orders, people to forget, and jobs whose order is lost."""

from __future__ import annotations

import asyncio
import csv
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Annotated, Any

import typer

from orderflow.api.answers import as_json as plain
from orderflow.cli.running import (
    INTERRUPTED,
    NOT_DONE,
    AsJson,
    Reason,
    Stores,
    Yes,
    confirm,
    fail,
    operator,
    with_stores,
)
from orderflow.cli.showing import clock, console, number, seconds_of, show_json, table
from orderflow.forget import Forgotten
from orderflow.operations import data as use
from orderflow.operations.orphans import Orphan, find_orphans, remove_orphans
from orderflow.purge import BATCH, YOUNGEST, Purged
from orderflow.purge import purge_orders as count_orders

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what it would do.")]
Undelivered = Annotated[
    bool,
    typer.Option("--undelivered", help="Also orders that are paid, and never said to have come."),
]


#: Where a person may still be known; docs/retention.md tells what to do about each.
NOT_REACHED = "logs, backups, the mail server, the gateway, and files of MAIL_FILE and SMS_FILE"


def purge(
    older_than: Annotated[str, typer.Option(help="How old: 400d. At least 30d.")],
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Orders at once.")] = BATCH,
    undelivered: Undelivered = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete orders that ended so long ago, with all that hangs on them, a batch at a time.

    Ended is what is delivered or cancelled, and told, with nothing left to give
    back. Ctrl-C ends it after the batch that it is at.
    """
    age = timedelta(seconds=seconds_of(older_than, "--older-than"))
    if age < YOUNGEST:
        fail(f"--older-than: must be {YOUNGEST.days}d or more")
    if not dry_run:
        question = f"Orders that ended more than {age.days} days ago are deleted for good. Go on?"
        confirm(question, yes=yes)

    async def run(stores: Stores) -> Purged:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        how: dict[str, Any] = {
            "stop": stop,
            "batch": batch,
            "undelivered": undelivered,
            **stores.both,
        }
        if dry_run:
            return await count_orders(age, dry_run=True, **how)
        return await use.purge_orders(
            age, operator(reason), tell=_quiet if as_json else _tell, **how
        )

    purged = with_stores(run)
    if as_json:
        show_json(purged)
    else:
        _show_purged(purged, "would be deleted" if dry_run else "deleted")
    if purged.stopped:
        raise typer.Exit(INTERRUPTED)


def _quiet(_purged: Purged) -> None:
    pass


def _tell(purged: Purged) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{purged.rows['orders']:,} orders", err=True, nl=False)


def _show_purged(purged: Purged, done: str) -> None:
    if sys.stderr.isatty():
        typer.echo("\r", err=True, nl=False)
    rows = [(name, number(count)) for name, count in purged.rows.items() if count]
    rows += [("jobs in Redis", number(purged.jobs))] if purged.jobs else []
    if purged.rows["orders"]:
        console().print(table(("table", f"rows {done} "), rows))
    else:
        typer.echo(f"no orders {done}")
    kept = [f"{count:,} {reason}" for reason, count in sorted(purged.kept.items())]
    if kept:
        typer.echo(f"kept, as old as they are: {', '.join(kept)}")
    if purged.stopped:
        typer.echo("stopped before the rest", err=True)


def forget(
    user: Annotated[str, typer.Argument(help="The user's id, as `sub` has it.")],
    undelivered: Undelivered = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take a person out of everything that is kept; what was bought and paid stays.

    Refused while an order of the user is open, since its customer is still to be told.
    """

    async def run(stores: Stores, *, dry_run: bool) -> Forgotten:
        return await use.forget_user(
            user, operator(reason), **stores.both, undelivered=undelivered, dry_run=dry_run
        )

    forgotten = with_stores(lambda stores: run(stores, dry_run=True))
    if not dry_run and forgotten.pseudonym is not None:
        orders = forgotten.rows.get("orders", 0)
        confirm(f"Who placed {orders:,} orders is forgotten for good. Go on?", yes=yes)
        forgotten = with_stores(lambda stores: run(stores, dry_run=False))
    if as_json:
        show_json(forgotten)
    else:
        _show_forgotten(forgotten, dry_run=dry_run)


def _show_forgotten(forgotten: Forgotten, *, dry_run: bool) -> None:
    if forgotten.pseudonym is None:
        typer.echo("nothing is kept of this user")
        return
    rows = [(name, number(count)) for name, count in forgotten.rows.items()]
    rows += [("jobs in Redis", number(forgotten.jobs))] if forgotten.jobs else []
    done = "would lose the person" if dry_run else "lost the person"
    console().print(table(("table", f"rows {done} "), rows))
    if not dry_run:
        typer.echo(f"the orders are of '{forgotten.pseudonym}' now")
    typer.echo(f"not reached from here: {NOT_REACHED}")


def orphans(
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove them, so none is charged.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")] = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show payment jobs whose order PostgreSQL does not have, as after a restore of a backup.

    Exit status: 0 there is none, or they were removed, 1 there are some.
    """
    found = with_stores(lambda stores: find_orphans(**stores.both))
    if as_json:
        show_json(found)
    elif as_csv:
        _print_csv(found)
    else:
        _print_orphans(found)
    if not found:
        return
    if not remove:
        raise typer.Exit(NOT_DONE)
    confirm(f"{len(found):,} jobs are removed, and are never charged. Go on?", yes=yes)
    removed = with_stores(lambda stores: remove_orphans(found, operator(reason), **stores.both))
    typer.echo(f"{removed:,} jobs removed", err=True)


def _print_orphans(found: Sequence[Orphan]) -> None:
    if not found:
        typer.echo("every payment job has its order")
        return
    columns = ("queue", "job", "state", "payment", "order", "method", "amount ", "added (UTC)")
    rows = (
        (
            orphan.queue,
            orphan.job_id,
            orphan.state,
            orphan.payment_id,
            orphan.order_id,
            orphan.method.value,
            orphan.amount,
            clock(orphan.added_at),
        )
        for orphan in found
    )
    console().print(table(columns, rows))


def _print_csv(found: Sequence[Orphan]) -> None:
    names = [field.name for field in fields(Orphan)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for orphan in found:
        writer.writerow(plain(getattr(orphan, name)) for name in names)
