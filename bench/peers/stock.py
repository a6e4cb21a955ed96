"""What the stock Python peers share: bullmq's own Worker, as well set up as it goes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from bullmq import Job, Queue, Worker
from redis.asyncio import Redis

JOB_OPTIONS = {
    "attempts": 3,
    "backoff": {"type": "exponential", "delay": 2000},
    "removeOnComplete": {"age": 3600, "count": 1000},
    "removeOnFail": {"age": 86400},
}

_log = logging.getLogger("bullmq")

Processor = Callable[[Job, str], Awaitable[Any]]


def connect() -> Redis:
    """Return a client with hiredis underneath."""
    return Redis.from_url(
        os.environ["REDIS_URL"],
        # Without it a processor gets no data.
        decode_responses=True,
        # Any limit would win over the blocking wait.
        socket_timeout=None,
    )


def address() -> dict[str, Any]:
    """Return where Redis is, as the client's own documentation says it: it makes one connection."""
    parts = urlsplit(os.environ["REDIS_URL"])
    return {"host": parts.hostname, "port": parts.port, "socket_timeout": None}


def open_queue(name: str) -> Queue:
    """Return a queue to add to."""
    return Queue(
        name,
        {
            "connection": connect(),
            "prefix": os.environ["QUEUE_PREFIX"],
            "defaultJobOptions": JOB_OPTIONS,
        },
    )


async def work(name: str, process: Processor, concurrency: int, connection: Any = None) -> None:
    """Work until SIGTERM, with a client of ours, which is the faster way, or with `connection`."""
    # As ours: the collector looks at the jobs under way too often for either.
    gc.set_threshold(10_000)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(
        name,
        process,
        {
            "connection": connection or connect(),
            "prefix": os.environ["QUEUE_PREFIX"],
            "concurrency": concurrency,
            "name": f"{socket.gethostname()}-{os.getpid()}",
            "metrics": {"maxDataPoints": 20_160},
            "lockDuration": 10_000,
            "stalledInterval": 5_000,
        },
    )
    worker.on("error", lambda error, *_: _log.error("%r", error))
    await stop.wait()
    await worker.close()


def configure_logs() -> logging.Logger:
    """Send lines of JSON to standard error."""
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ["LOG_LEVEL"].upper(),
        format='{"time":"%(asctime)s","level":"%(levelname)s","name":"%(name)s",%(message)s}',
    )
    return logging.getLogger("shop")
