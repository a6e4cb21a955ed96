"""A stock worker whose jobs do nothing, given a client, or the address of Redis.

`python -m bench.peers.stock_drain client|address QUEUE CONCURRENCY`
"""

from __future__ import annotations

import sys

import uvloop
from bullmq import Job

from bench.peers.stock import address, work


async def _process(_job: Job, _token: str) -> None:
    return None


if __name__ == "__main__":
    how, queue, concurrency = sys.argv[1:]
    uvloop.run(work(queue, _process, int(concurrency), address() if how == "address" else None))
