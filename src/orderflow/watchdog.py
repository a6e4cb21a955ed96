"""Ends a process whose event loop stands still: nobody else can take a job out of its hands.

Nothing in Python runs then, so the standard library's `faulthandler` does it, from a thread that
needs none of it. Its clock goes on while a process is stopped (SIGSTOP), so one that was stopped
for as long may end when it is woken. That does no harm: its jobs are with others by then.
"""

from __future__ import annotations

import asyncio
import faulthandler
from contextlib import suppress


async def watch_loop(hang_ms: int, stop: asyncio.Event) -> None:
    """End the process with status 1 once the loop stood still for `hang_ms`; until `stop` is set.

    Where it stood goes to standard error.
    """
    hang_s = hang_ms / 1000
    pause_s = min(1.0, hang_s / 4)
    try:
        while not stop.is_set():
            faulthandler.dump_traceback_later(hang_s, exit=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await stop.wait()
    finally:
        faulthandler.cancel_dump_traceback_later()
