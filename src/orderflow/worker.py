"""Run a worker: `python -m orderflow.worker payment --concurrency 10 --processes 4`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import structlog
import typer
import uvloop
from redis.exceptions import RedisError

from orderflow.bull.worker import (
    Delivery,
    FailedAttempt,
    Processor,
    run_worker,
    worker_name,
)
from orderflow.collector import collect_rarely, pass_by_what_is_there
from orderflow.errors import (
    InvalidSettings,
    InvalidWorker,
    MetricsNotServed,
    TooFewSlots,
    UnknownWorker,
)
from orderflow.logs import configure_logs
from orderflow.metrics.serving import serve_process, serve_processes
from orderflow.operations.failures import record_failure
from orderflow.processes import run_processes, stop_with_parent
from orderflow.processor import QueueWorker
from orderflow.queue_names import shares
from orderflow.resources import Resources, open_resources
from orderflow.settings import Settings, load_settings
from orderflow.tracing import open_tracing
from orderflow.watchdog import watch_loop
from orderflow.worker_files import load_worker

log = structlog.get_logger(__name__)

#: Opens what the handlers work with; its end closes it.
OpenResources = Callable[[Settings], AbstractAsyncContextManager[Resources]]

#: How often a worker looks whether its schedules are still there.
_SCHEDULE_CHECK_S = 2.0


async def serve(
    worker: QueueWorker,
    concurrency: int,
    settings: Settings,
    resources_of: OpenResources = open_resources,
) -> None:
    """Work until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    One of many processes drains as well when its parent asks for that, or is gone. One whose event
    loop stands still for WORKER_HANG_MS ends with status 1, unless it drains. Handlers get
    what `resources_of` opens: another program can give a gateway and senders of its own.
    """
    collect_rarely()
    pass_by_what_is_there()
    stop = asyncio.Event()
    _stop_on_signals(stop)
    stop_with_parent(stop)
    with serve_process(settings.metrics_address):
        async with resources_of(settings) as resources:
            await _work(worker, concurrency, resources, stop)
    log.info("worker stopped", queue=worker.queue)


async def _work(
    worker: QueueWorker, concurrency: int, resources: Resources, stop: asyncio.Event
) -> None:
    settings = resources.settings
    shards = settings.queue_names.shards_of(worker.queue)
    slots = dict(zip(shards, shares(concurrency, len(shards)), strict=True))
    for queue in shards:
        await _warn_of_other_priorities(queue, resources)
        log.info("worker started", queue=queue, concurrency=slots[queue])
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(_keep_schedules(worker, resources))
        group.create_task(watch_loop(settings.worker_hang_ms, stop), name="watchdog")
        for beside in worker.beside:
            group.create_task(beside(resources, stop))

        def keep(failed: FailedAttempt) -> None:
            # Beside the jobs: none waits for it, and the drain does.
            group.create_task(record_failure(failed, worker_name(), db=resources.db))

        processor = _processor(worker, resources)
        async with asyncio.TaskGroup() as running:
            for queue, count in slots.items():
                running.create_task(run_worker(queue, processor, count, settings, stop, keep))
        keeper.cancel()


def _processor(worker: QueueWorker, resources: Resources) -> Processor:
    """Return what runs a delivery, and makes a span of that where traces are on."""

    async def process(delivery: Delivery) -> dict[str, Any]:
        return await worker.process(delivery, resources)

    if not resources.settings.is_traced:
        return process
    from orderflow.tracing.queues import traced

    return traced(process)


async def _warn_of_other_priorities(queue: str, resources: Resources) -> None:
    """Say so if jobs wait under numbers that these settings do not have: a fleet must agree."""
    try:
        in_use = await resources.queues.priorities_in_use(queue)
    except (RedisError, OSError):
        return
    unknown = resources.settings.priorities.unknown(in_use)
    if unknown:
        log.warning(
            "jobs wait with priorities that PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW lack",
            queue=queue,
            priorities=unknown,
        )


async def _keep_schedules(worker: QueueWorker, resources: Resources) -> None:
    """Put the worker's schedules back whenever Redis has lost them."""
    schedules = worker.schedules(resources.settings)
    while schedules:
        for schedule in schedules:
            try:
                if await resources.queues.ensure_schedule(worker.queue, schedule):
                    log.info("schedule set", job_name=schedule.job_name, every_ms=schedule.every_ms)
            except (RedisError, OSError) as error:
                log.warning("schedule not checked", reason=type(error).__name__)
        await asyncio.sleep(_SCHEDULE_CHECK_S)


def _stop_on_signals(stop: asyncio.Event) -> None:
    # Counted here, not seen by `stop`: a parent may have set that for the same Ctrl-C or SIGTERM.
    heard = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal heard
        if heard:
            os._exit(128 + number)
        heard = True
        log.info("stopping", signal=number.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def run(
    name: Annotated[str, typer.Argument(help="The worker: payment, notification, order, …")],
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000,
            help="Jobs at once in each process; the worker's own number otherwise.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="Processes of this worker, kept by one parent.")
    ] = 1,
    queue_prefix: Annotated[
        str | None, typer.Option(help="Prefix of the Redis keys; QUEUE_PREFIX otherwise.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="json or console; LOG_FORMAT otherwise.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics; METRICS_PORT otherwise.")
    ] = None,
) -> None:
    """Run the worker NAME until SIGTERM or Ctrl-C.

    Exit status: 0 drained, 1 the worker died or one of its processes did not
    drain, 2 a wrong name or setting, or a port that is taken.
    """
    try:
        settings = load_settings(
            queue_prefix=queue_prefix, log_format=log_format, metrics_port=metrics_port
        )
        worker = load_worker(name)
        slots = _slots(worker, concurrency, settings)
    except (InvalidSettings, UnknownWorker, InvalidWorker, TooFewSlots) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    configure_logs(settings.log_format, settings.log_level)
    if processes > 1:
        options = {
            "concurrency": concurrency,
            "queue-prefix": queue_prefix,
            "log-format": log_format,
        }
        command = _command(name, options)
        raise typer.Exit(_run_many(command, processes, settings))
    raise typer.Exit(_run_here(name, worker, slots, settings))


def _slots(worker: QueueWorker, asked: int | None, settings: Settings) -> int:
    """Return how many jobs a process runs at once. Raises TooFewSlots."""
    slots = asked or worker.concurrency
    shards = len(settings.queue_names.shards_of(worker.queue))
    if slots < shards:
        raise TooFewSlots(slots=slots, shards=shards)
    return slots


def _run_many(command: Sequence[str], processes: int, settings: Settings) -> int:
    """Run many processes; return the exit status."""
    try:
        with serve_processes(settings.metrics_address):
            return run_processes(command, processes)
    except MetricsNotServed as error:
        typer.echo(f"METRICS_PORT: {error}", err=True)
        return 2


def _run_here(name: str, worker: QueueWorker, concurrency: int, settings: Settings) -> int:
    """Work in this process; return the exit status."""
    try:
        with open_tracing(settings, name):
            uvloop.run(serve(worker, concurrency, settings))
    except MetricsNotServed as error:
        typer.echo(f"METRICS_PORT: {error}", err=True)
        return 2
    except Exception:
        log.exception("worker died")
        return 1
    return 0


def _command(name: str, options: Mapping[str, object]) -> list[str]:
    """Return the command of one process, with the options that were given."""
    given = (f"--{option}={value}" for option, value in options.items() if value is not None)
    return [sys.executable, "-m", "orderflow.worker", name, *given]


if __name__ == "__main__":
    typer.run(run)
