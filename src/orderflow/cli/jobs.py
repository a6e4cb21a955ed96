"""Commands about single jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow.api.answers import as_json as json_of
from orderflow.cli.queues import QueueArgument
from orderflow.cli.running import AsJson, Reason, Yes, confirm, fail, operator, with_stores
from orderflow.cli.showing import clock, console, duration, number, show_json, table
from orderflow.operations import jobs as use

JobArgument = Annotated[str, typer.Argument(help="The job's id.")]


def jobs(
    queue: QueueArgument,
    job_id: Annotated[str | None, typer.Argument(help="Only this one, in full.")] = None,
    state: Annotated[
        str,
        typer.Option(
            help="waiting, active, delayed, failed, completed, paused or waiting-children."
        ),
    ] = "waiting",
    start: Annotated[int, typer.Option(min=0, help="Jobs before the first one.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Jobs, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the jobs of QUEUE in one state, in the order of their turn; or one of them in full."""
    if job_id is not None:
        _show_job(queue, job_id, as_json)
        return
    page = with_stores(
        lambda stores: use.list_jobs(queue, state, queues=stores.queues, start=start, limit=limit)
    )
    if as_json:
        show_json(page)
        return
    columns = ("id", "name", "attempts ", "priority ", "added (UTC)", "order", "reason")
    rows = (
        (
            job.id,
            job.name,
            f"{job.attempts_made}/{job.max_attempts}",
            number(job.priority),
            clock(job.added_at),
            job.order_id,
            job.failed_reason,
        )
        for job in page.jobs
    )
    console().print(table(columns, rows))
    last = page.start + len(page.jobs)
    typer.echo(f"{page.start + 1 if page.jobs else page.start} to {last} of {page.total:,} {state}")


def _show_job(queue: str, job_id: str, as_json: bool) -> None:
    job = with_stores(lambda stores: use.get_job(queue, job_id, **stores.both))
    if as_json:
        show_json(job)
        return
    console().print(table(("", ""), _facts(job)))
    for failure in job.failures:
        last = ", the last" if failure.final else ""
        typer.echo(
            f"{clock(failure.at)}  attempt {failure.attempt}{last}: "
            f"{failure.error_type}: {failure.message} ({failure.fingerprint})"
        )
    for line in job.logs:
        typer.echo(f"log: {line}")
    if job.stack:
        typer.echo(f"\n{job.stack[-1]}")


def _facts(job: use.JobDetails) -> Iterator[tuple[str, object]]:
    summary = job.summary
    yield "id", summary.id
    yield "name", summary.name
    yield "state", summary.state
    yield (
        "attempts",
        f"{summary.attempts_made} of {summary.max_attempts}, begun {job.attempts_started}",
    )
    yield "left by workers", job.stalled
    yield "priority", summary.priority
    yield "added", clock(summary.added_at)
    yield "began", clock(summary.started_at)
    yield "ended", clock(summary.ended_at)
    if summary.due_at:
        yield "due", clock(summary.due_at)
    yield "worker", summary.worker
    if job.lock_ms is not None:
        yield "lock", duration(job.lock_ms / 1000)
    yield "order", summary.order_id
    yield "reason", summary.failed_reason
    yield "data", json.dumps(json_of(job.data), ensure_ascii=False)
    yield "options", json.dumps(json_of(job.opts), ensure_ascii=False)
    yield "result", json.dumps(json_of(job.return_value), ensure_ascii=False)


def retry(
    queue: QueueArgument,
    job_id: JobArgument,
    data: Annotated[
        str | None, typer.Option(help="Its new data, as JSON; what is masked as *** stays.")
    ] = None,
    data_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The same, as a file.")
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Run a job that failed or completed again, its attempts counted anew."""
    new_data = _data(data, data_file)
    with_stores(
        lambda stores: use.retry_job(queue, job_id, operator(reason), **stores.both, data=new_data)
    )
    _done(queue, job_id, "waits for its turn again", as_json)


def _data(given: str | None, file: Path | None) -> Any:
    if given is not None and file is not None:
        fail("--data and --data-file exclude each other: give one")
    if file is not None:
        given = file.read_text("utf-8")
    if given is None:
        return None
    try:
        return json.loads(given)
    except ValueError as error:
        fail(f"--data: must be JSON: {error}")


def promote(
    queue: QueueArgument, job_id: JobArgument, reason: Reason = "", as_json: AsJson = False
) -> None:
    """Let a delayed job wait for its turn now."""
    with_stores(lambda stores: use.promote_job(queue, job_id, operator(reason), **stores.both))
    _done(queue, job_id, "waits for its turn", as_json)


def requeue(
    queue: QueueArgument, job_id: JobArgument, reason: Reason = "", as_json: AsJson = False
) -> None:
    """Let a job wait for its turn: one that ended, is delayed, or was left by a dead worker."""
    with_stores(lambda stores: use.move_to_waiting(queue, job_id, operator(reason), **stores.both))
    _done(queue, job_id, "waits for its turn", as_json)


def remove(
    queue: QueueArgument,
    job_id: JobArgument,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a job, wherever it is. The reconciler adds again what an open order needs."""
    confirm(f"Job {job_id} of {queue} will be removed. Remove it?", yes=yes)
    with_stores(lambda stores: use.remove_job(queue, job_id, operator(reason), **stores.both))
    _done(queue, job_id, "is removed", as_json)


def _done(queue: str, job_id: str, what: str, as_json: bool) -> None:
    if as_json:
        show_json({"status": "done", "queue": queue, "id": job_id})
    else:
        typer.echo(f"{job_id} {what}")
