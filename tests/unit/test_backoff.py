"""The rules of Node's BullMQ for a job that ended: when it is tried again, how long it is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from bullmq import Job

from orderflow.bull.backoff import backoff_delay_ms
from orderflow.bull.scripts import _keep_jobs

ERROR = OSError("away")


def failed(backoff: Any, attempts_made: int = 0) -> Job:
    """Return a job as it is when an attempt of it has failed, which is not yet counted."""
    queue = SimpleNamespace(backend=None, qualifiedName="bull:probe")  # a job asks it nothing here
    job = Job(queue, "probe", {}, {"attempts": 5})
    job.opts["backoff"] = backoff
    job.attemptsMade = attempts_made
    return job


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ({"type": "exponential", "delay": 2000}, [2000, 4000, 8000]),
        ({"type": "exponential", "delay": 1.4}, [1, 3, 6]),
        ({"type": "exponential"}, [0, 0, 0]),
        ({"type": "fixed", "delay": 2000}, [2000, 2000, 2000]),
        ({"type": "fixed", "delay": 2000, "jitter": 0}, [2000, 2000, 2000]),
        ({"type": "fixed"}, [0, 0, 0]),
        (None, [0, 0, 0]),
    ],
)
async def test_the_delay_of_each_attempt(backoff, delays):
    assert [await backoff_delay_ms(failed(backoff, n), ERROR, None) for n in range(3)] == delays


@pytest.mark.parametrize("kind", ["fixed", "exponential"])
async def test_jitter_spreads_a_delay_over_its_last_part(kind):
    job = failed({"type": kind, "delay": 1000, "jitter": 0.25})
    delays = [await backoff_delay_ms(job, ERROR, None) for _ in range(500)]
    assert 750 <= min(delays) < 800
    assert 950 < max(delays) <= 1000


async def test_a_strategy_decides_on_a_type_of_its_own_and_may_take_its_time():
    asked: list[tuple[Any, ...]] = []

    def at_once(*args: Any) -> int:
        asked.append(args)
        return -1

    async def later(*args: Any) -> float:
        return 1000.0 * at_once(*args) * -7

    job = failed({"type": "of the shop"}, attempts_made=1)
    assert await backoff_delay_ms(job, ERROR, at_once) == -1
    assert await backoff_delay_ms(job, ERROR, later) == 7000
    assert asked == [(2, "of the shop", ERROR, job)] * 2


async def test_an_unknown_type_without_a_strategy_is_an_error():
    with pytest.raises(ValueError, match="Unknown backoff strategy of the shop"):
        await backoff_delay_ms(failed({"type": "of the shop"}), ERROR, None)


@pytest.mark.parametrize(
    ("remove", "kept"),
    [
        (True, {"count": 0}),
        (False, {"count": -1}),
        (None, {"count": -1}),
        (0, {"count": 0}),
        (5, {"count": 5}),
        ({"age": 3600, "count": 1000}, {"age": 3600, "count": 1000}),
    ],
)
def test_how_many_ended_jobs_are_kept(remove, kept):
    assert _keep_jobs(remove) == kept
