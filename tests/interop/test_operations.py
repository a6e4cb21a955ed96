"""What operators do here holds for Node, and what Node does is seen here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.integration.working import ADA, until
from tests.interop.bridge import Node

from orderflow.errors import JobIsRunning
from orderflow.operations import jobs as on_jobs
from orderflow.operations import queues as on_queues
from orderflow.operations.queues import RateLimit
from orderflow.operations.workers import list_workers
from orderflow.resources import Resources

QUEUE = "probe"
Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def stores(resources: Resources) -> dict[str, Any]:
    return {"db": resources.db, "queues": resources.queues}


@pytest.fixture
def ask(node: Node) -> Ask:
    async def ask(op: str, **args: Any) -> Any:
        return await asyncio.to_thread(lambda: node.ask(op, queue=QUEUE, **args))

    return ask


@pytest.fixture
def counted(resources: Resources) -> Callable[[str, int], Awaitable[Any]]:
    async def counted(state: str, count: int) -> Any:
        async def look() -> bool:
            queue = await on_queues.get_queue(QUEUE, queues=resources.queues)
            return queue.counts[state] == count

        return await until(look)

    return counted


async def test_a_node_worker_honours_a_pause(ask: Ask, stores: Any, counted: Any) -> None:
    await ask("add", name="probe", data={}, opts={})
    await on_queues.pause_queue(QUEUE, ADA, **stores)
    assert await ask("isPaused")
    await ask("startWorker")
    await ask("add", name="probe", data={}, opts={})

    async def both_wait() -> bool:
        # A 5.x client lays what it adds meanwhile into a list of its own.
        counts = (await on_queues.get_queue(QUEUE, queues=stores["queues"])).counts
        return counts["waiting"] + counts["paused"] == 2

    await until(both_wait)
    assert await ask("ran") == []
    await on_queues.resume_queue(QUEUE, ADA, **stores)
    await counted("completed", 2)


async def test_node_workers_honour_a_concurrency(ask: Ask, stores: Any, counted: Any) -> None:
    for _ in range(6):
        await ask("add", name="probe", data={"sleepMs": 400}, opts={})
    await on_queues.set_concurrency(QUEUE, 2, ADA, **stores)
    await ask("startWorker", opts={"concurrency": 6})
    await counted("active", 2)
    most = 0
    while await _waiting(stores):
        queue = await on_queues.get_queue(QUEUE, queues=stores["queues"])
        most = max(most, queue.counts["active"])
    assert most == 2
    await counted("completed", 6)
    await on_queues.set_concurrency(QUEUE, None, ADA, **stores)


async def _waiting(stores: Any) -> int:
    queue = await on_queues.get_queue(QUEUE, queues=stores["queues"])
    return queue.counts["waiting"]


async def test_a_node_worker_honours_a_rate_limit(ask: Ask, stores: Any, counted: Any) -> None:
    for _ in range(8):
        await ask("add", name="probe", data={}, opts={})
    await on_queues.set_rate_limit(QUEUE, RateLimit(3, 600_000), ADA, **stores)
    await ask("startWorker", opts={"concurrency": 8})
    await counted("completed", 3)
    queue = await on_queues.get_queue(QUEUE, queues=stores["queues"])
    assert queue.limited_ms > 0
    assert queue.counts["waiting"] == 5
    assert len(await ask("ran")) == 3
    await on_queues.set_rate_limit(QUEUE, None, ADA, **stores)
    await ask("stopWorker")
    await ask("startWorker")
    await counted("completed", 8)


async def test_what_failed_in_node_is_retried_and_removed(
    ask: Ask, stores: Any, counted: Any
) -> None:
    await ask("startWorker")
    good = await ask("add", name="probe", data={"failTimes": 1, "fail": "no luck"}, opts={})
    bad = await ask("add", name="probe", data={"unrecoverable": "never"}, opts={})
    await counted("failed", 2)
    job = await on_jobs.get_job(QUEUE, good, **stores)
    assert job.summary.failed_reason == "no luck"
    assert "Error: no luck" in job.stack[0]
    await on_jobs.retry_job(QUEUE, bad, ADA, **stores, data={"value": {"mended": True}})
    await counted("completed", 1)
    assert (await ask("getJob", jobId=bad))["returnvalue"] == {"mended": True}
    await on_jobs.remove_job(QUEUE, good, ADA, **stores)
    assert await ask("getJob", jobId=good) is None


async def test_a_node_worker_is_seen_with_its_jobs(
    ask: Ask, resources: Resources, stores: Any, counted: Any
) -> None:
    await ask("startWorker", opts={"name": "node-worker"})
    job_id = await ask("add", name="probe", data={"sleepMs": 3_000}, opts={})
    await counted("active", 1)

    fleet = await list_workers(queues=resources.queues, settings=resources.settings)

    (worker,) = [worker for worker in fleet.workers if worker.queue == QUEUE]
    assert worker.name == "node-worker"
    assert worker.language in {"node", "unknown"}
    assert worker.host is None
    assert worker.jobs is not None
    assert [job.id for job in worker.jobs] == [job_id]
    with pytest.raises(JobIsRunning):
        await on_jobs.remove_job(QUEUE, job_id, ADA, **stores)
    assert (await on_jobs.get_job(QUEUE, job_id, **stores)).lock_ms is not None


async def test_a_node_worker_without_a_name_says_less(
    ask: Ask, resources: Resources, counted: Any
) -> None:
    await ask("startWorker")
    job_id = await ask("add", name="probe", data={"sleepMs": 3_000}, opts={})
    await counted("active", 1)

    fleet = await list_workers(queues=resources.queues, settings=resources.settings)

    (worker,) = [worker for worker in fleet.workers if worker.queue == QUEUE]
    assert (worker.name, worker.host, worker.jobs) == (None, None, None)
    assert worker.address
    assert [job.id for job in fleet.unclaimed] == [job_id]
