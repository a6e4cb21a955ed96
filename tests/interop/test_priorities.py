"""Priorities are numbers in Redis: both languages must have the same ones, or be told."""

from __future__ import annotations

import json

import pytest
from tests.conftest import wait_until
from tests.interop.conftest import NODE_OPTIONS

from orderflow.bull.queues import open_queues
from orderflow.contract import order_confirmation_job, payment_failed_job

NOTIFICATIONS = "notifications"


@pytest.mark.parametrize(("high", "medium", "low"), [(1, 10, 20), (20, 10, 1)])
async def test_jobs_of_both_languages_wait_in_one_order(node, settings, keys, high, medium, low):
    """Under the numbers that a fleet agrees on, whichever they are; the smaller runs first."""
    agreed = settings.model_copy(
        update={"priority_high": high, "priority_medium": medium, "priority_low": low}
    )
    options = NODE_OPTIONS | {"jobId": "by-node"}
    node.add(NOTIFICATIONS, "payment-failed", {}, options | {"priority": medium})
    async with open_queues(agreed) as queues:
        confirmation = order_confirmation_job("o-1", "7")
        failed = payment_failed_job("o-2", "7", "card_declined")
        await queues.add(confirmation)
        await queues.add(failed)
    waiting = keys(NOTIFICATIONS).ids("prioritized")
    of_medium = ["by-node", failed.job_id]
    expected = [confirmation.job_id, *of_medium] if high < medium else None
    assert waiting == (expected or [*of_medium, confirmation.job_id])
    job = node.job(NOTIFICATIONS, confirmation.job_id)
    assert (job["opts"]["priority"], job["state"]) == (high, "prioritized")


async def test_numbers_of_node_that_the_settings_lack_are_warned_of(node, start_worker):
    for priority in (1, 5, 10, 30):
        node.add("probe", "probe", {"sleepMs": 60_000}, NODE_OPTIONS | {"priority": priority})
    worker = start_worker("probe", "--concurrency", "1")
    wait_until(lambda: "worker started" in worker.log.read_text(), "the start")
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    [warning] = [line for line in lines if line["event"].startswith("jobs wait with priorities")]
    assert (warning["priorities"], warning["level"]) == ([5, 30], "warning")
