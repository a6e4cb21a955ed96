"""Workers that mostly rest: `python -m bench.ours.idle QUEUE COUNT`, as peers/idle.mjs."""

from __future__ import annotations

import os
import sys
import time

import uvloop
from bullmq import Job

from bench.ours.worker import work


async def _process(job: Job, _token: str) -> None:
    started_us = time.monotonic_ns() // 1000
    os.write(1, f"{started_us - job.data['addedUs']}\n".encode())


if __name__ == "__main__":
    queue, count = sys.argv[1:]
    uvloop.run(work([f"{queue}-{n}" for n in range(int(count))], _process, 10))
