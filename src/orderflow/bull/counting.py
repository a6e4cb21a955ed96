"""What a worker does, as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bullmq import Job, UnrecoverableError

from orderflow.bull.slots import SlotWorker
from orderflow.metrics import (
    JOB_ATTEMPTS,
    JOB_FAILURES,
    JOB_LOCKS_LOST,
    JOB_RETRIES,
    JOB_RUN,
    JOB_STALLS,
    JOB_WAIT,
    WORKER_SLOTS,
    WORKER_SLOTS_BUSY,
)


@contextmanager
def counted(worker: SlotWorker) -> Iterator[None]:
    """Count how the jobs of a worker end; while inside show its slots, too."""
    queue = worker.name

    def fail(_job: Job, error: BaseException, final: bool) -> None:
        JOB_ATTEMPTS[queue, "failed" if final else "retried"] += 1
        (JOB_FAILURES if final else JOB_RETRIES)[queue, type(reason_of(error)).__name__] += 1

    def count(outcome: str) -> None:
        JOB_ATTEMPTS[queue, outcome] += 1

    def stall(_job_id: str) -> None:
        JOB_STALLS[queue,] += 1

    def lose_locks(job_ids: Sequence[str]) -> None:
        JOB_LOCKS_LOST[queue,] += len(job_ids)

    for outcome in ("completed", "retried", "failed", "postponed"):
        JOB_ATTEMPTS.begin(queue, outcome)
    JOB_STALLS.begin(queue)
    JOB_LOCKS_LOST.begin(queue)
    worker.on("completed", lambda *_: count("completed"))
    worker.on("postponed", lambda *_: count("postponed"))
    worker.on("failed", fail)
    worker.on("stalled", stall)
    worker.on("lockRenewalFailed", lose_locks)
    with (
        WORKER_SLOTS.of(lambda: worker.opts["concurrency"], queue),
        WORKER_SLOTS_BUSY.of(lambda: len(worker.jobs), queue),
    ):
        yield


def reason_of(error: BaseException) -> BaseException:
    """Return what an attempt failed of. What the processor gave up for is its error's cause."""
    cause: BaseException | None = error.__cause__
    return cause if isinstance(error, UnrecoverableError) and cause is not None else error


def observe_wait(job: Job, queue: str, trace_id: str | None) -> None:
    """Observe how long a job has waited since it was added, or since its delay was over."""
    delay_ms = job.opts.get("delay")
    due_ms = job.timestamp + (delay_ms if isinstance(delay_ms, int | float) else 0)
    waited_s = time.time() - due_ms / 1000
    # Clocks differ.
    JOB_WAIT.observe(waited_s if waited_s > 0 else 0.0, (queue,), trace_id)


def observe_run(started: float, queue: str, trace_id: str | None) -> None:
    """Observe how long an attempt ran since `started`, which is of time.perf_counter."""
    JOB_RUN.observe(time.perf_counter() - started, (queue,), trace_id)
