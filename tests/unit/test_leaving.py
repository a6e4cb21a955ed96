"""Leaving service at a SIGTERM that comes at a bad moment."""

from __future__ import annotations

import json
import subprocess
import sys

#: A server whose SIGTERM comes while it writes the line of an order.
PROGRAM = """
import asyncio
import signal
import sys

import structlog

from orderflow.api.leaving import leave_in_time
from orderflow.logs import configure_logs


class Interrupted:
    def write(self, text):
        if "order placed" in text:
            signal.raise_signal(signal.SIGTERM)
        sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()


async def serve():
    stopped = asyncio.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    async with leave_in_time(1) as leaving:
        structlog.get_logger("shop").info("order placed")
        assert leaving.begun
        await stopped.wait()


sys.stderr = Interrupted()
configure_logs("json", "info")
asyncio.run(serve())
"""


def test_a_sigterm_in_the_middle_of_a_log_line_is_heard():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True, check=True, timeout=60
    )
    told = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert told == ["order placed", "leaving service"]
