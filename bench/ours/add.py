"""A producer: `python -m bench.ours.add QUEUE JOBS IN_FLIGHT WARM_UP_JOBS`, as peers/add.mjs."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from orderflow.bull.producer import NodeQueue
from orderflow.bull.queues import open_queues
from orderflow.collector import collect_rarely
from orderflow.settings import load_settings

PRIORITIES = (1, 10, 20)


async def _add(queue: NodeQueue, count: int, in_flight: int) -> None:
    for start in range(0, count, in_flight):
        await asyncio.gather(
            *(
                queue.add(
                    "process-payment",
                    {
                        "paymentId": f"p-{n}",
                        "orderId": f"o-{n}",
                        "paymentData": {"method": "card", "amount": "19.99"},
                    },
                    {"jobId": f"payment-{n}", "priority": PRIORITIES[n % 3]},
                )
                for n in range(start, min(count, start + in_flight))
            )
        )


async def _main(name: str, jobs: int, in_flight: int, warm_up: int) -> None:
    collect_rarely()  # as the API does
    # A thousand adds at once may take longer than a checkout would wait.
    async with open_queues(load_settings(redis_timeout_ms=10_000)) as queues:
        await _add(queues.queue(f"{name}-warm-up"), warm_up, in_flight)
        queue = queues.queue(name)
        print("ready", flush=True)
        for _word in iter(sys.stdin.readline, ""):
            await _add(queue, jobs, in_flight)
            print("done", flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], *map(int, sys.argv[2:])))
