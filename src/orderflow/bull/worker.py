"""Running a BullMQ worker from its start to its drained end."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from bullmq import Job

from orderflow.bull.connection import connect_wait, connect_worker
from orderflow.bull.counting import counted, observe_run, observe_wait, reason_of
from orderflow.bull.slots import SlotWorker
from orderflow.bull.trace import carrier_of, carrying, trace_id
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

#: What the log says of a job whose worker seemed dead; the rehearsal counts these lines.
STALLED = "job stalled"

#: BullMQ waits this long after its connection fails; its own 15 s would be the outage.
_RETRY_DELAY_MS = 250
#: What closing may take after a drain that did not end; with Redis away it could be for ever.
_CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a job: what a worker was handed, whoever added it."""

    queue: str
    name: str
    job_id: str
    data: Any
    attempt: int = 1
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, and is recorded as that: what was delivered, and the error.

    `final` says that no other attempt follows. A job that could not be read has no data.
    """

    queue: str
    name: str
    job_id: str
    data: Any
    attempt: int
    final: bool
    error: BaseException


Processor = Callable[[Delivery], Awaitable[dict[str, Any]]]
OnFailed = Callable[[FailedAttempt], None]


class WorkerEnded(Exception):
    """The worker's loop came to an end by itself."""


async def run_worker(
    queue: str,
    processor: Processor,
    concurrency: int,
    settings: Settings,
    stop: asyncio.Event,
    on_failed: OnFailed | None = None,
) -> None:
    """Work on `queue` until `stop` is set, then drain; tell `on_failed` of each failed attempt.

    Draining fetches nothing more and gives running jobs DRAIN_TIMEOUT_MS; what is still running
    then is left to be delivered again. Raises WorkerEnded if the loop dies, so that whoever
    supervises the process starts it anew.
    """
    worker = _build(queue, processor, concurrency, settings)
    if on_failed is not None:
        worker.on("failed", lambda *failed: on_failed(_failed_attempt(queue, *failed)))
    with counted(worker):
        await _run(worker, settings, stop)


async def _run(worker: SlotWorker, settings: Settings, stop: asyncio.Event) -> None:
    queue = worker.name
    loop = asyncio.create_task(worker.run(), name=f"worker of {queue}")
    stopping = asyncio.create_task(stop.wait(), name="waiting for a stop")
    try:
        await asyncio.wait({loop, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            raise WorkerEnded(f"the worker of {queue} ended") from _error_of(loop)
    finally:
        stopping.cancel()
        await _drain_and_close(worker, settings.drain_timeout_ms / 1000)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def _build(queue: str, processor: Processor, concurrency: int, settings: Settings) -> SlotWorker:
    async def process(job: Job, _token: str) -> dict[str, Any]:
        carrier = carrier_of(job.opts)
        delivery = Delivery(
            queue=queue,
            name=job.name,
            job_id=str(job.id),
            data=job.data,
            attempt=job.attemptsMade + 1,
            trace_id=trace_id(carrier),
        )
        if delivery.attempt == 1:
            observe_wait(job, queue, delivery.trace_id)
        started = time.perf_counter()
        try:
            with carrying(carrier):
                return await processor(delivery)
        finally:
            observe_run(started, queue, delivery.trace_id)

    worker = SlotWorker(queue, process, worker_options(queue, concurrency, settings))
    # Without listeners nobody would hear of these.
    worker.on("error", lambda error, *_: log.warning("worker error", reason=str(error)))
    worker.on("stalled", lambda job_id: log.warning(STALLED, queue=queue, job_id=job_id))
    worker.on(
        "lockRenewalFailed", lambda job_ids: log.warning("locks lost", queue=queue, job_ids=job_ids)
    )
    return worker


def _failed_attempt(queue: str, job: Job, error: BaseException, final: bool) -> FailedAttempt:
    """Return what is to be told."""
    return FailedAttempt(
        queue=queue,
        name=job.name or "",
        job_id=str(job.id),
        data=job.data,
        attempt=max(1, job.attemptsMade),
        final=final,
        error=reason_of(error),
    )


def worker_name() -> str:
    """Return the name of this process's workers, as it is with their jobs and connections."""
    return f"{socket.gethostname()}-{os.getpid()}"


def worker_options(queue: str, concurrency: int, settings: Settings) -> dict[str, Any]:
    """Return the options of a worker that is run by hand, with connections of its own."""
    limit = settings.rate_limit_of(queue)
    servers, prefix = settings.redis_servers, settings.queue_names.prefix_of(queue)
    return {
        "autorun": False,
        "connection": connect_worker(servers, prefix),
        "blockingConnection": connect_wait(servers, prefix),
        "prefix": prefix,
        "concurrency": concurrency,
        "lockDuration": settings.worker_lock_ms,
        "stalledInterval": settings.worker_stalled_interval_ms,
        "poisonDeaths": settings.worker_poison_deaths,
        "runRetryDelay": _RETRY_DELAY_MS,
        "name": worker_name(),
        # BullMQ's own counters by the minute, for two weeks, as Node's MetricsTime has it.
        "metrics": {"maxDataPoints": 20_160},
        "limiter": limit.model_dump() if limit else None,
    }


async def _drain_and_close(worker: SlotWorker, timeout_s: float) -> None:
    # Said in the step that begins it: whoever has read this knows that no job is taken any more.
    log.info("draining", queue=worker.name, jobs=len(worker.jobs))
    try:
        async with asyncio.timeout(timeout_s):
            return await worker.close()
    except TimeoutError:
        left = [job.id for job, _token in worker.jobs]
        log.warning("drain deadline reached; jobs are left for redelivery", job_ids=left)
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await worker.close(force=True)
    except TimeoutError:
        log.warning("the connection to Redis did not close in time")


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
