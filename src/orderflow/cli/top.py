"""Commands that show the fleet at work: its workers, and everything at once, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from redis.exceptions import RedisError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from orderflow.api.answers import as_json as json_of
from orderflow.cli.queues import state_of
from orderflow.cli.running import AsJson, Stores, checked, open_stores, with_stores
from orderflow.cli.showing import ago, console, duration, number, show_json, table, text
from orderflow.errors import DatabaseUnavailable
from orderflow.operations.failures import FailureGroup, list_groups
from orderflow.operations.queues import QueueSummary, list_queues
from orderflow.operations.workers import Fleet, list_workers

_GROUPS, _WORKERS = 5, 15


def workers(as_json: AsJson = False) -> None:
    """Show who works on which queue, in any language, and on which jobs."""
    fleet = with_stores(lambda stores: list_workers(queues=stores.queues, settings=stores.settings))
    if as_json:
        show_json(fleet)
        return
    console().print(_worker_table(fleet, len(fleet.workers)))
    for job in fleet.unclaimed:
        typer.echo(f"{job.id} of {job.queue} runs, and no worker of that name is connected")


def _worker_table(fleet: Fleet, most: int) -> Table:
    columns = ("queue", "worker", "language", "host", "process ", "jobs ", "heard ", "up ", "runs")
    rows = (
        (
            worker.queue,
            worker.name,
            worker.language,
            worker.host or worker.address,
            worker.process,
            "?" if worker.jobs is None else len(worker.jobs),
            duration(worker.silent_s),
            duration(worker.connected_s),
            ", ".join(job.id for job in (worker.jobs or ())[:3]),
        )
        for worker in fleet.workers[:most]
    )
    return table(columns, rows)


def top(
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between looks.")] = 2.0,
    times: Annotated[
        int | None, typer.Option(min=1, help="End after so many looks.", show_default="never")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch queues, workers and failures until Ctrl-C. With --json: a line of JSON a look."""

    def watch() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(every, times, as_json))

    checked(watch)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look saw; what cannot be asked now is None, and `away` says why."""

    at: float
    queues: list[QueueSummary] | None
    fleet: Fleet | None
    groups: list[FailureGroup] | None
    away: list[str]


async def _watch(every: float, times: int | None, as_json: bool) -> None:
    looks = 0
    before: _Look | None = None
    async with open_stores() as stores:
        with Live(console=console(), auto_refresh=False, screen=False) as live:
            while times is None or looks < times:
                if looks:
                    await asyncio.sleep(every)
                seen = await _look(stores)
                if as_json:
                    typer.echo(json.dumps(_line(seen, before), ensure_ascii=False))
                else:
                    live.update(_screen(seen, before), refresh=True)
                before = seen
                looks += 1


async def _look(stores: Stores) -> _Look:
    queues = fleet = groups = None
    away = []
    try:
        queues = await list_queues(queues=stores.queues)
        fleet = await list_workers(queues=stores.queues, settings=stores.settings)
    except (RedisError, OSError) as error:
        away.append(f"Redis does not answer: {type(error).__name__}")
    try:
        groups = await list_groups(db=stores.db, limit=_GROUPS)
    except DatabaseUnavailable as error:
        away.append(str(error))
    return _Look(time.monotonic(), queues, fleet, groups, away)


def _per_second(queue: QueueSummary, seen: _Look, before: _Look | None) -> tuple[float, float]:
    """Return how many jobs a second completed and failed between two looks."""
    known = {old.name: old for old in (before.queues or [])} if before else {}
    old = known.get(queue.name)
    if before is None or old is None:
        return queue.completed_per_minute / 60, queue.failed_per_minute / 60
    passed = seen.at - before.at
    completed, failed = queue.completed - old.completed, queue.failed - old.failed
    return max(0, completed) / passed, max(0, failed) / passed


def _line(seen: _Look, before: _Look | None) -> object:
    paces = {queue.name: _per_second(queue, seen, before) for queue in seen.queues or ()}
    return json_of(
        {
            "queues": seen.queues,
            "perSecond": {
                name: {"completed": completed, "failed": failed}
                for name, (completed, failed) in paces.items()
            },
            "fleet": seen.fleet,
            "groups": seen.groups,
            "away": seen.away,
        }
    )


def _screen(seen: _Look, before: _Look | None) -> RenderableType:
    parts: list[RenderableType] = [*map(text, seen.away)]
    if seen.queues is not None:
        columns = [
            *("queue", "waiting ", "active ", "delayed ", "failed ", "oldest "),
            *("jobs/s ", "failed/s ", "workers ", "state"),
        ]
        rows = []
        for queue in seen.queues:
            completed, failed = _per_second(queue, seen, before)
            rows.append(
                (
                    queue.name,
                    number(queue.counts["waiting"] + queue.counts["paused"]),
                    *(number(queue.counts[state]) for state in ("active", "delayed", "failed")),
                    duration(queue.oldest_s),
                    number(round(completed, 1)),
                    number(round(failed, 1)),
                    number(queue.workers),
                    state_of(queue),
                )
            )
        parts += [table(columns, rows), text(" ")]
    if seen.fleet is not None:
        parts += [_worker_table(seen.fleet, _WORKERS), text(" ")]
        hidden = len(seen.fleet.workers) - _WORKERS
        parts += [text(f"and {hidden} more workers")] if hidden > 0 else []
    if seen.groups:
        rows_ = (
            (
                group.fingerprint,
                group.queue,
                number(group.failures),
                ago(group.last_seen),
                group.example,
            )
            for group in seen.groups
        )
        parts.append(table(("failing", "queue", "failures ", "last ago ", "example"), rows_))
    return Group(*parts)
