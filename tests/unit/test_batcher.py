"""The batcher: what goes together, and what fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from orderflow.db.batcher import MAX_SIZE, MAX_UNDER_WAY, Batcher
from orderflow.errors import DatabaseRefused, DatabaseUnavailable


class Recorder:
    """Doubles numbers, remembers its batches, and refuses what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.refused: set[int] = set()
        self.away = False
        self.goes_away_after: int | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may_end.wait()
        if self.away or len(self.batches) == self.goes_away_after:
            raise DatabaseUnavailable(reason="away")
        if self.refused & set(numbers):
            raise DatabaseRefused(reason="refused", rule="rule")
        return [2 * number for number in numbers]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def test_one_alone_goes_at_once(recorder):
    batcher = Batcher(recorder)
    assert await batcher.do(1, key=1) == 2
    assert recorder.batches == [[1]]


async def test_what_is_asked_for_in_one_turn_goes_together(recorder):
    batcher = Batcher(recorder)
    results = await asyncio.gather(*(batcher.do(n, key=n) for n in range(50)))
    assert results == [2 * n for n in range(50)]
    assert recorder.batches == [list(range(50))]


async def test_a_batch_has_a_size(recorder):
    batcher = Batcher(recorder)
    count = 2 * MAX_SIZE + 1
    await asyncio.gather(*(batcher.do(n, key=n) for n in range(count)))
    assert [len(batch) for batch in recorder.batches] == [MAX_SIZE, MAX_SIZE, 1]


async def test_what_comes_while_enough_are_under_way_gathers(recorder):
    batcher = Batcher(recorder)
    recorder.may_end.clear()
    tasks = []
    for n in range(MAX_UNDER_WAY + 3):
        tasks.append(asyncio.create_task(batcher.do(n, key=n)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert recorder.batches == [[n] for n in range(MAX_UNDER_WAY)]
    recorder.may_end.set()
    await asyncio.gather(*tasks)
    assert recorder.batches[MAX_UNDER_WAY:] == [[n + MAX_UNDER_WAY for n in range(3)]]


async def test_the_guilty_one_fails_alone(recorder):
    batcher = Batcher(recorder)
    recorder.refused = {3}
    results = await asyncio.gather(
        *(batcher.do(n, key=n) for n in range(6)), return_exceptions=True
    )
    assert isinstance(results.pop(3), DatabaseRefused)
    assert results == [0, 2, 4, 8, 10]


async def test_while_postgres_is_away_all_fail_at_once(recorder):
    batcher = Batcher(recorder)
    recorder.away = True
    count = (MAX_UNDER_WAY + 2) * MAX_SIZE
    results = await asyncio.gather(
        *(batcher.do(n, key=n) for n in range(count)), return_exceptions=True
    )
    assert {type(result) for result in results} == {DatabaseUnavailable}
    # Those that waited were not tried, only to wait as long again.
    assert len(recorder.batches) == MAX_UNDER_WAY

    recorder.away = False
    assert await batcher.do(1, key=1) == 2


async def test_those_behind_one_that_meets_an_outage_do_not_try_each_for_itself(recorder):
    batcher = Batcher(recorder)
    recorder.refused, recorder.goes_away_after = {0}, 3
    first, second, *rest = await asyncio.gather(
        *(batcher.do(n, key=n) for n in range(6)), return_exceptions=True
    )
    assert isinstance(first, DatabaseRefused)
    assert {type(error) for error in (second, *rest)} == {DatabaseUnavailable}
    assert recorder.batches == [[0, 1, 2, 3, 4, 5], [0], [1]]


async def test_two_with_one_key_never_share_a_batch(recorder):
    batcher = Batcher(recorder)
    results = await asyncio.gather(*(batcher.do(n, key=n % 2) for n in range(4)))
    assert results == [0, 2, 4, 6]
    assert recorder.batches == [[0, 1], [2, 3]]


async def test_one_that_gives_up_does_not_hurt_its_batch(recorder):
    batcher = Batcher(recorder)
    recorder.may_end.clear()
    gone, *others = [asyncio.create_task(batcher.do(n, key=n)) for n in range(3)]
    while not recorder.batches:
        await asyncio.sleep(0)
    gone.cancel()
    recorder.may_end.set()
    assert await asyncio.gather(*others) == [2, 4]
    assert gone.cancelled()


async def test_one_that_gives_up_before_its_batch_is_not_done(recorder):
    batcher = Batcher(recorder)
    first, gone, *others = [asyncio.create_task(batcher.do(n, key=n)) for n in range(4)]
    await asyncio.sleep(0)
    gone.cancel()
    assert await asyncio.gather(first, *others) == [0, 4, 6]
    assert recorder.batches == [[0, 2, 3]]


async def test_a_batch_runs_in_the_context_of_none_of_its_callers():
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")

    async def told(numbers: Sequence[int]) -> list[str]:
        return [whose.get() for _ in numbers]

    whose.set("the caller's")
    assert await Batcher(told).do(1, key=1) == "nobody's"


async def test_one_that_gives_up_while_others_are_tried_alone_is_not_tried(recorder):
    batcher = Batcher(recorder)
    recorder.refused = {0}
    recorder.may_end.clear()
    tasks = [asyncio.create_task(batcher.do(n, key=n)) for n in range(3)]
    while not recorder.batches:
        await asyncio.sleep(0)
    tasks[1].cancel()
    recorder.may_end.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, DatabaseRefused)
    assert isinstance(second, asyncio.CancelledError)
    assert third == 4
    assert recorder.batches == [[0, 1, 2], [0], [2]]


async def test_a_batch_that_is_cancelled_leaves_no_caller_waiting():
    async def cancelled(_numbers: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    batcher = Batcher(cancelled)
    results = await asyncio.gather(batcher.do(1, 1), batcher.do(2, 2), return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_an_error_of_ours_reaches_all_and_the_next_batch_goes():
    async def broken(numbers: Sequence[int]) -> list[int]:
        if len(numbers) > 1:
            raise ZeroDivisionError
        return list(numbers)

    batcher = Batcher(broken)
    results = await asyncio.gather(batcher.do(1, 1), batcher.do(2, 2), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    assert await batcher.do(3, 3) == 3
