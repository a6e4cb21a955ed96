"""A worker inside of a test, whose failures are kept as a worker's process keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from orderflow.bull.worker import Delivery, FailedAttempt, run_worker
from orderflow.operations.audit import Actor
from orderflow.operations.failures import record_failure
from orderflow.resources import Resources

ADA = Actor("ada", "cli", "as tested")
PATIENCE_S = 20


@asynccontextmanager
async def working(
    resources: Resources,
    queue: str,
    processor: Callable[[Delivery], Awaitable[dict[str, Any]]],
    concurrency: int = 4,
) -> AsyncIterator[None]:
    """Work on a queue inside; leaving waits for the jobs that run, and what failed is kept."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:

        def keep(failed: FailedAttempt) -> None:
            group.create_task(record_failure(failed, "worker-1", db=resources.db))

        run = run_worker(queue, processor, concurrency, resources.settings, stop, keep)
        group.create_task(run)
        try:
            yield
        finally:
            stop.set()


async def until(answers: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `answers` gives once it is true; fail the test when it does not become so."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := await answers()):
            await asyncio.sleep(0.01)
    return answer


async def add(resources: Resources, queue: str, job_id: str, data: Any = None, **opts: Any) -> None:
    """Add a job of any name to any queue."""
    await resources.queues.queue(queue).add(
        "probe", data or {}, {"jobId": job_id, "attempts": 1, "backoff": 0} | opts
    )
