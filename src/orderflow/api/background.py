"""Work that goes on after its request is answered, until it ends or the process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class Background:
    """Runs work beside the requests. What it raises is logged, and ends nothing else."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Let `work` run from now on; the end of the app cancels it."""
        task = asyncio.create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel what still runs, and return when it has ended."""
        # One that has not begun yet begins, so that it ends as one that has.
        await asyncio.sleep(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(work: Coroutine[Any, Any, object], name: str) -> None:
    try:
        await work
    except Exception as error:
        log.error("background work failed", work=name, reason=type(error).__name__)  # noqa: TRY400


@asynccontextmanager
async def open_background() -> AsyncIterator[Background]:
    """Give a place for background work; leaving stops what still runs."""
    background = Background()
    try:
        yield background
    finally:
        await background.stop()
