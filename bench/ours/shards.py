"""Payments that do nothing, added or worked on by one process: `python -m bench.ours.shards`.

`add FIRST COUNT` adds the payments of COUNT orders once it is told `go`. `work SLOTS` works on all
shards until SIGTERM, as `python -m orderflow.worker payment` does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from decimal import Decimal

import uvloop
from bullmq import Job

from bench.ours.worker import work
from orderflow.bull.queues import JobQueues, open_queues
from orderflow.contract import NewJob, QueueName, payment_job
from orderflow.settings import load_settings

_AT_ONCE = 500


async def _do_nothing(_job: Job, _token: str) -> None:
    return None


async def _add(first: int, count: int) -> None:
    """Add one job after the other, as checkouts do, many at the same time."""
    jobs = (
        payment_job(f"payment-of-{n}", f"order-{n}", "card", Decimal("19.99"))
        for n in range(first, first + count)
    )
    async with open_queues(load_settings(redis_timeout_ms=60_000)) as queues:
        await queues.ping()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(_add_some(queues, jobs) for _ in range(_AT_ONCE)))
        print("done", flush=True)


async def _add_some(queues: JobQueues, jobs: Iterator[NewJob]) -> None:
    for job in jobs:
        await queues.add(job)


async def _work(slots: int) -> None:
    shards = load_settings().queue_names.shards_of(QueueName.PAYMENTS)
    await work(shards, _do_nothing, slots // len(shards))


def main() -> None:
    """Do what the arguments say."""
    what, *numbers = sys.argv[1:]
    uvloop.run(_add(*map(int, numbers)) if what == "add" else _work(*map(int, numbers)))


if __name__ == "__main__":
    main()
