"""For tests of your own: run a job through the real path of a worker, without its loop.

    result = await perform_job("payment", "process-payment", data, resources)

The data makes the same trip through JSON as in Redis, the same handler is found by the same
rules, and errors are those that BullMQ would see.
"""

from __future__ import annotations

import json
from typing import Any

from orderflow.bull.worker import Delivery
from orderflow.processor import QueueWorker
from orderflow.resources import Resources
from orderflow.worker_files import load_worker


async def perform_job(
    worker: str | QueueWorker,
    job_name: str,
    data: Any,
    resources: Resources,
    *,
    job_id: str = "test",
    attempt: int = 1,
) -> dict[str, Any]:
    """Run one job and return its result, as BullMQ would keep it.

    `worker` is a name as on the command line, or the QueueWorker itself. Raises
    bullmq.UnrecoverableError where BullMQ would not try again, the attempt's own error where it
    would, and TypeError or ValueError if the data or the result is no JSON.
    """
    found = load_worker(worker) if isinstance(worker, str) else worker
    carried = json.loads(json.dumps(data, allow_nan=False))
    delivery = Delivery(found.queue, job_name, job_id, carried, attempt)
    kept: dict[str, Any] = json.loads(
        json.dumps(await found.process(delivery, resources), allow_nan=False)
    )
    return kept
