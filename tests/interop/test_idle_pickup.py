"""A worker of ours that had nothing to do starts the next job at once."""

from __future__ import annotations

import asyncio

import pytest


@pytest.mark.parametrize("idle_s", [1, 6, 13, 61])
async def test_a_job_starts_within_50_ms_after_idling(node6, start_worker, keys, idle_s, alone):
    start_worker("probe")
    node6.add("probe", "probe", {})
    keys("probe").wait_for("completed", 1)
    await asyncio.sleep(idle_s)  # what is tested is that nothing happens for so long
    with alone():
        job_id = node6.add("probe", "probe", {})
        keys("probe").wait_for("completed", 2)
    job = node6.job("probe", job_id)
    waited_ms = job["processedOn"] - job["timestamp"]
    assert waited_ms <= 50, f"{waited_ms} ms after {idle_s} s"
