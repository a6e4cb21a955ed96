"""A worker of ours that had nothing to do starts the next job at once."""

from __future__ import annotations

import asyncio
import time

#: How long the workers have had nothing to do, each of them on a queue of its own.
IDLE_S = (1, 6, 13, 61)


async def test_a_job_starts_within_50_ms_after_idling(node6, start_worker, keys, machine):
    for idle_s in IDLE_S:
        start_worker("probe", PROBE_QUEUE=f"idle-{idle_s}")
        node6.add(f"idle-{idle_s}", "probe", {})
    for idle_s in IDLE_S:
        keys(f"idle-{idle_s}").wait_for("completed", 1)
    began = time.monotonic()
    for idle_s in IDLE_S:
        queue = f"idle-{idle_s}"
        with machine.elsewhere():
            # What is tested is that nothing happens for so long.
            await asyncio.sleep(began + idle_s - time.monotonic())
        with machine.alone():
            job_id = node6.add(queue, "probe", {})
            keys(queue).wait_for("completed", 2)
        job = node6.job(queue, job_id)
        waited_ms = job["processedOn"] - job["timestamp"]
        assert waited_ms <= 50, f"{waited_ms} ms after {idle_s} s"
