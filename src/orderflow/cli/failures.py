"""Commands about what failed, and about all jobs that failed in one way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orderflow.cli.running import (
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
from orderflow.cli.showing import ago, clock, console, number, seconds_of, show_json, table
from orderflow.errors import BulkActionNotFound
from orderflow.operations import bulk as use
from orderflow.operations.failures import (
    Failure,
    FailureGroup,
    failures_of_group,
    get_group,
    list_groups,
)
from orderflow.operations.queues import check_queue

GroupArgument = Annotated[str, typer.Argument(help="The group's fingerprint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what it would do.")]
Rate = Annotated[int, typer.Option(min=1, max=use.MOST_PER_SECOND, help="Jobs a second.")]


def failures(
    fingerprint: Annotated[str | None, typer.Argument(help="Only this group, in full.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only groups of this queue.")] = None,
    within: Annotated[str | None, typer.Option(help="Only groups seen since: 15m, 2h, 7d.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Entries, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what failed, in groups of the same error, the newest first; or one group in full."""
    if fingerprint is not None:
        _show_group(fingerprint, limit, as_json)
        return
    since = (
        None
        if within is None
        else datetime.now(UTC) - timedelta(seconds=seconds_of(within, "--within"))
    )

    async def look(stores: Stores) -> list[FailureGroup]:
        if queue is not None:
            await check_queue(queue, queues=stores.queues)
        return await list_groups(db=stores.db, queue=queue, since=since, limit=limit)

    groups = with_stores(look)
    if as_json:
        show_json(groups)
        return
    columns = (
        "group",
        "queue",
        "failures ",
        "final ",
        "first ago ",
        "last ago ",
        "error",
        "example",
    )
    rows = (
        (
            group.fingerprint,
            group.queue,
            number(group.failures),
            number(group.finals),
            ago(group.first_seen),
            ago(group.last_seen),
            f"{group.error_type} in {group.place}",
            group.example,
        )
        for group in groups
    )
    console().print(table(columns, rows))


def _show_group(fingerprint: str, limit: int, as_json: bool) -> None:
    async def look(stores: Stores) -> tuple[FailureGroup, list[Failure]]:
        group = await get_group(fingerprint, db=stores.db)
        return group, await failures_of_group(fingerprint, db=stores.db, limit=limit)

    group, newest = with_stores(look)
    if as_json:
        show_json({"group": group, "failures": newest})
        return
    typer.echo(
        f"{group.failures:,} failures in {group.queue}, {group.finals:,} of them final, from "
        f"{clock(group.first_seen)} to {clock(group.last_seen)} UTC"
    )
    typer.echo(f"{group.error_type} in {group.place}")
    columns = ("at (UTC)", "job", "attempt ", "final", "order", "worker", "message")
    rows = (
        (
            clock(failure.at),
            failure.job_id,
            number(failure.attempt),
            "yes" if failure.final else "no",
            failure.order_id,
            failure.worker,
            failure.message,
        )
        for failure in newest
    )
    console().print(table(columns, rows))
    if newest:
        typer.echo(f"\n{newest[0].stack}")


def retry_group(
    fingerprint: GroupArgument,
    rate: Rate = use.DEFAULT_PER_SECOND,
    dry_run: DryRun = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Run all jobs of a group that are still failed again, their attempts counted anew."""
    _bulk("retry", fingerprint, rate, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def discard_group(
    fingerprint: GroupArgument,
    rate: Rate = use.DEFAULT_PER_SECOND,
    dry_run: DryRun = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove all jobs of a group that are still failed. What is known of their failures stays."""
    _bulk("discard", fingerprint, rate, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def _bulk(
    kind: use.Kind,
    fingerprint: str,
    rate: int,
    reason: str,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    trial = with_stores(lambda stores: use.try_bulk(fingerprint, **stores.both))
    if dry_run:
        _show_trial(kind, trial, as_json)
        return
    left = f" {_listed(trial.skipped)} will be left." if trial.skipped else ""
    confirm(f"{trial.would:,} jobs of {trial.queue} will be {_PAST[kind]}.{left} Go on?", yes=yes)
    action = with_stores(
        lambda stores: _run(stores, kind, fingerprint, rate, reason, trial.jobs, as_json)
    )
    if as_json:
        show_json(action)
    else:
        _show_end(action)
    if action.state != "done":
        raise typer.Exit(NOT_DONE)


_PAST: dict[use.Kind, str] = {"retry": "retried", "discard": "removed"}


async def _run(
    stores: Stores,
    kind: use.Kind,
    fingerprint: str,
    rate: int,
    reason: str,
    jobs: int,
    quiet: bool,
) -> use.BulkAction:
    who = operator(reason)
    action = await use.begin_bulk(kind, fingerprint, who, db=stores.db, per_second=rate)
    shown = Progress(
        TextColumn(f"{kind} {fingerprint}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=quiet,
        transient=True,
    )
    with shown:
        task = shown.add_task(kind, total=jobs)
        return await use.run_bulk(
            action,
            who,
            **stores.both,
            tell=lambda now: shown.update(task, completed=_touched(now)),
        )


def _touched(action: use.BulkAction) -> int:
    return action.done + action.refused + sum(action.skipped.values())


def _show_trial(kind: use.Kind, trial: use.DryRun, as_json: bool) -> None:
    if as_json:
        show_json(trial)
        return
    typer.echo(f"{trial.would:,} of {trial.jobs:,} jobs of {trial.queue} would be {_PAST[kind]}")
    if trial.skipped:
        typer.echo(f"left would be: {_listed(trial.skipped)}")
    for job_id in trial.examples:
        typer.echo(f"  {job_id}")


def _show_end(action: use.BulkAction) -> None:
    typer.echo(f"{action.state}: {action.done:,} jobs {_PAST[action.kind]}")
    if action.skipped:
        typer.echo(f"left, as they had not failed any more: {_listed(action.skipped)}")
    if action.refused:
        typer.echo(f"refused: {action.refused:,}")
    for refusal in action.refusals:
        typer.echo(f"  {refusal.job_id}: {refusal.reason}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))


def bulk(
    action_id: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Ask it to stop, wherever it runs.")] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Show the retries and discards of groups, under way and ended."""

    async def look(stores: Stores) -> list[use.BulkAction]:
        if action_id is None:
            return await use.list_bulk(db=stores.db)
        wanted = _uuid(action_id)
        if stop:
            return [await use.stop_bulk(wanted, operator(reason), db=stores.db)]
        return [await use.get_bulk(wanted, db=stores.db)]

    if stop and action_id is None:
        fail("--stop: the bulk action must be named")
    actions = with_stores(look)
    if as_json:
        show_json(actions if action_id is None else actions[0])
        return
    columns = ("bulk action", "what", "queue", "state", "done ", "left ", "refused ", "by", "ago ")
    rows = (
        (
            action.id,
            f"{action.kind} {action.fingerprint}",
            action.queue,
            "stopping" if action.stop_wanted and action.state == "running" else action.state,
            f"{action.done:,} of {action.jobs:,}",
            number(sum(action.skipped.values())),
            number(action.refused),
            action.user,
            ago(action.started_at),
        )
        for action in actions
    )
    console().print(table(columns, rows))


def _uuid(given: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise BulkActionNotFound(action_id=given) from None
