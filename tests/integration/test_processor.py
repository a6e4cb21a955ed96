"""What becomes of a handler's limits and errors, by the path that a worker file's jobs take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from orderflow.errors import JobTimedOut
from orderflow.processor import JobInterrupted, QueueWorker
from orderflow.resources import Resources
from orderflow.testing import perform_job

Work = Callable[[], Awaitable[Any]]


class NoData(BaseModel):
    """What these jobs carry."""


def worker(work: Work, timeout_ms: int | None = None) -> QueueWorker:
    made = QueueWorker(queue="probe", concurrency=1)

    @made.handles("probe", NoData, timeout_ms=timeout_ms)
    async def do(_payload: NoData, _resources: Resources) -> dict[str, Any]:
        return {"did": await work()}

    return made


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_run_has_its_handlers_limit_or_else_that_of_the_settings(resources: Resources):
    shop = resources.settings.model_copy(update={"job_timeout_ms": 20})
    short = replace(resources, settings=shop)
    for limit_ms, has in ((None, 20), (10, 10)):
        with pytest.raises(JobTimedOut, match=f"'probe' ran longer than its limit of {has} ms"):
            await perform_job(worker(for_ever, limit_ms), "probe", {}, short)
    assert await perform_job(worker(lambda: asyncio.sleep(0.05, 1), 9_000), "probe", {}, short) == {
        "did": 1
    }


async def test_a_time_out_of_the_handlers_own_is_its_own(resources: Resources):
    async def gives_up() -> None:
        raise TimeoutError("the shelf did not answer")

    with pytest.raises(TimeoutError, match="the shelf did not answer"):
        await perform_job(worker(gives_up), "probe", {}, resources)


async def test_an_error_without_words_is_told_by_its_name(resources: Resources):
    async def fails() -> None:
        raise KeyError

    with pytest.raises(RuntimeError, match=r"^KeyError$"):
        await perform_job(worker(fails), "probe", {}, resources)


async def test_a_cancel_from_within_is_an_attempt_and_one_from_outside_a_cancel(
    resources: Resources,
):
    async def is_cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(JobInterrupted, match="cancelled from within"):
        await perform_job(worker(is_cancelled), "probe", {}, resources)

    has_begun = asyncio.Event()

    async def runs() -> None:
        has_begun.set()
        await for_ever()

    running = asyncio.create_task(perform_job(worker(runs), "probe", {}, resources))
    await asyncio.wait_for(has_begun.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
