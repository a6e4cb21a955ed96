"""Commands about queues."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer
from rich.table import Table

from orderflow.cli.running import AsJson, Reason, Yes, confirm, fail, operator, with_stores
from orderflow.cli.showing import console, duration, number, seconds_of, show_json, table
from orderflow.operations import queues as use
from orderflow.operations.queues import QueueSummary, RateLimit

QueueArgument = Annotated[
    str, typer.Argument(help="The queue's name, as `orderflow queues` has it.")
]

_RATE = re.compile(r"([1-9]\d{0,6})/(\d{1,4}(?:\.\d{1,3})?)")


def queues(
    queue: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how each queue is: how many jobs, how old, how fast, and what holds them back."""
    if queue is None:
        found = with_stores(lambda stores: use.list_queues(queues=stores.queues))
    else:
        found = [with_stores(lambda stores: use.get_queue(queue, queues=stores.queues))]
    if as_json:
        show_json(found if queue is None else found[0])
    else:
        console().print(queue_table(found))


def queue_table(found: list[QueueSummary]) -> Table:
    """Return the queues as a table."""
    columns = [
        *("queue", "waiting ", "active ", "delayed ", "failed ", "completed ", "oldest "),
        *("a minute ", "failed a minute ", "workers ", "state"),
    ]
    return table(
        columns,
        (
            (
                queue.name,
                number(queue.counts["waiting"] + queue.counts["paused"]),
                *(number(queue.counts[state]) for state in ("active", "delayed", "failed")),
                number(queue.counts["completed"]),
                duration(queue.oldest_s),
                number(round(queue.completed_per_minute, 1)),
                number(round(queue.failed_per_minute, 1)),
                number(queue.workers),
                state_of(queue),
            )
            for queue in found
        ),
    )


def state_of(queue: QueueSummary) -> str:
    """Say what holds a queue back."""
    said = ["paused"] if queue.paused else []
    if queue.concurrency is not None:
        said.append(f"{queue.concurrency:,} at once")
    if queue.rate_limit is not None:
        limit = queue.rate_limit
        said.append(f"{limit.max:,} in {limit.duration_ms / 1000:g} s")
    if queue.limited_ms:
        said.append(f"held back for {queue.limited_ms / 1000:.1f} s")
    return ", ".join(said) or "open"


def pause(
    queue: QueueArgument, reason: Reason = "", yes: Yes = False, as_json: AsJson = False
) -> None:
    """Let no worker, in any language, start a job of QUEUE. Those that run go on."""
    confirm(f"No job of {queue} will be started until it is resumed. Pause it?", yes=yes)
    _show(
        with_stores(lambda stores: use.pause_queue(queue, operator(reason), **stores.both)), as_json
    )


def resume(queue: QueueArgument, reason: Reason = "", as_json: AsJson = False) -> None:
    """Let workers start jobs of QUEUE again."""
    _show(
        with_stores(lambda stores: use.resume_queue(queue, operator(reason), **stores.both)),
        as_json,
    )


def limit(
    queue: QueueArgument,
    rate: Annotated[
        str | None, typer.Option(help="MAX/SECONDS, as 100/1: so many start in so long; or off.")
    ] = None,
    concurrency: Annotated[str | None, typer.Option(help="So many run at once; or off.")] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Limit the jobs of QUEUE over all workers, in any language, until it is taken off."""
    if rate is None and concurrency is None:
        fail("--rate, --concurrency, or both must be given")
    most = _concurrency(concurrency)
    new_rate = _rate(rate)
    if rate is not None:
        with_stores(
            lambda stores: use.set_rate_limit(queue, new_rate, operator(reason), **stores.both)
        )
    if concurrency is not None:
        with_stores(
            lambda stores: use.set_concurrency(queue, most, operator(reason), **stores.both)
        )
    _show(with_stores(lambda stores: use.get_queue(queue, queues=stores.queues)), as_json)


def _rate(given: str | None) -> RateLimit | None:
    if given in (None, "off"):
        return None
    parts = _RATE.fullmatch(str(given))
    if parts is None or not 0 < float(parts[2]) <= 3_600:
        fail("--rate: must be MAX/SECONDS, as 100/1 or 5/0.5, or off")
    return RateLimit(int(parts[1]), round(float(parts[2]) * 1000))


def _concurrency(given: str | None) -> int | None:
    if given in (None, "off"):
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}", str(given)):
        fail("--concurrency: must be a whole number from 1 on, or off")
    return int(str(given))


def drain(
    queue: QueueArgument,
    delayed: Annotated[
        bool, typer.Option("--delayed", help="Those that are delayed, too.")
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove all jobs of QUEUE that wait. The reconciler adds again what open orders need."""
    confirm(f"All jobs that wait in {queue} will be removed. Drain it?", yes=yes)
    removed = with_stores(
        lambda stores: use.drain_queue(queue, operator(reason), **stores.both, delayed=delayed)
    )
    _show_removed(removed, as_json)


def clean(
    queue: QueueArgument,
    state: Annotated[Literal["failed", "completed"], typer.Option(help="Which jobs.")],
    older_than: Annotated[str, typer.Option(help="Since their end: 90s, 15m, 2h or 7d.")] = "0",
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove jobs of QUEUE that ended. What is known of their failures stays."""
    age_s = seconds_of(older_than, "--older-than")
    confirm(f"All {state} jobs of {queue} that are older than {age_s} s will be removed.", yes=yes)
    removed = with_stores(
        lambda stores: use.clean_queue(queue, state, age_s, operator(reason), **stores.both)
    )
    _show_removed(removed, as_json)


def _show(queue: QueueSummary, as_json: bool) -> None:
    if as_json:
        show_json(queue)
    else:
        console().print(queue_table([queue]))


def _show_removed(removed: use.Removed, as_json: bool) -> None:
    if as_json:
        show_json(removed)
    else:
        typer.echo(f"{removed.removed:,} jobs removed, {removed.left:,} left")
