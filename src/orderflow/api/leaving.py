"""Leaving service: the load balancer is told first, and then the server stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger(__name__)


#: Where the app's lifespan leaves it for the connections.
LEAVING = "leaving"


class Leaving:
    """Whether this process stops soon, and so wants no more requests, and ends its streams."""

    begun = False


@asynccontextmanager
async def leave_in_time(grace_ms: int) -> AsyncIterator[Leaving]:
    """Let SIGTERM reach the server only after `grace_ms`, in which it goes on serving.

    A server closes its port at once, and connections that are idle: without the grace a request
    that is on its way would be lost. A second SIGTERM does not wait.
    """
    leaving = Leaving()
    if grace_ms == 0:
        yield leaving
        return
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if leaving.begun:
            stop(number, frame)
            return
        leaving.begun = True
        # Not told here, which may be in the middle of a line: it would wait for that one's lock,
        # and the process would stand still.
        loop.call_soon_threadsafe(begin, number, frame)

    def begin(number: int, frame: FrameType | None) -> None:
        log.info("leaving service", grace_ms=grace_ms)
        loop.call_later(grace_ms / 1000, stop, number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield leaving
    finally:
        signal.signal(signal.SIGTERM, stop)
