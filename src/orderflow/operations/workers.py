"""Workers: where each runs, on what, and when it was last heard of.

What is known is what Redis knows: the connections by their names, and the jobs that run with the
worker that took each. No worker tells how many jobs it would run at once, and a Node worker that
was given no name does not say which jobs are its own, nor where it runs but for an address.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orderflow.bull.fleet import (
    ConnectedWorker,
    RunningJob,
    connected_workers,
    queues_of,
    running_jobs,
)
from orderflow.bull.queues import JobQueues
from orderflow.operations.jobs import moment
from orderflow.settings import Settings

_HOST_AND_PROCESS = re.compile(r"(.+)-(\d+)")


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """A job that runs. Without a lock its worker is gone, and another one will take it."""

    queue: str
    id: str
    name: str
    started_at: datetime | None
    lock_ms: int | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker on one queue.

    `language` is `python`, `node` or `unknown`, `host` and `process` those of its name where that
    says them. `silent_s` is for how long nothing was heard of it. `jobs` is None where its jobs
    cannot be told from those of others.
    """

    queue: str
    name: str | None
    language: str
    host: str | None
    process: int | None
    address: str
    connected_s: int
    silent_s: float
    jobs: Sequence[CurrentJob] | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers, and the jobs that run and are of none of them by name."""

    workers: Sequence[WorkerInfo]
    unclaimed: Sequence[CurrentJob]


async def list_workers(*, queues: JobQueues, settings: Settings) -> Fleet:
    """Return who works on which queue just now, in whichever language."""
    workers = await connected_workers(queues)
    names = sorted({*queues.names.all(), *queues_of(workers)})
    found = await asyncio.gather(*(running_jobs(queues, name) for name in names))
    running = [job for jobs in found for job in jobs]
    named = {(worker.queue, worker.name) for worker in workers if worker.name is not None}
    return Fleet(
        workers=[_info(worker, running, settings.worker_lock_ms) for worker in workers],
        unclaimed=[_current(job) for job in running if (job.queue, job.worker) not in named],
    )


def _info(worker: ConnectedWorker, running: Sequence[RunningJob], lock_ms: int) -> WorkerInfo:
    own = [job for job in running if (job.queue, job.worker) == (worker.queue, worker.name)]
    known = _HOST_AND_PROCESS.fullmatch(worker.name or "")
    return WorkerInfo(
        queue=worker.queue,
        name=worker.name,
        language=worker.language,
        host=known[1] if known else None,
        process=int(known[2]) if known else None,
        address=worker.address,
        connected_s=worker.age_s,
        silent_s=min([float(worker.idle_s), *_renewed_s(worker, own, lock_ms)]),
        jobs=None if worker.name is None else [_current(job) for job in own],
    )


def _renewed_s(worker: ConnectedWorker, own: Sequence[RunningJob], lock_ms: int) -> list[float]:
    """Return how long ago the locks were renewed: how long a Node worker's last is not known."""
    if worker.language != "python":
        return []
    left = [job.lock_ms for job in own if job.lock_ms is not None]
    return [(lock_ms - left_ms) / 1000 for left_ms in left if left_ms <= lock_ms]


def _current(job: RunningJob) -> CurrentJob:
    return CurrentJob(job.queue, job.job_id, job.name, moment(job.started_ms), job.lock_ms)
