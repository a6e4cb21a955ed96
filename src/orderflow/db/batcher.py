"""Group commit: what is asked for at the same time is done in one call.

A round trip and a commit cost the same for one row as for a hundred. A batch goes at the next
turn of the event loop, and while as many are under way as may be, what comes meanwhile gathers
for the next one. Nothing waits for a clock, so one request alone is as fast as without.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from orderflow.errors import DatabaseRefused, DatabaseUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

#: More in one batch gain nothing that can be measured, and make the others wait.
MAX_SIZE = 128
#: One is being written while the next is made. More at once would only make each of them smaller.
MAX_UNDER_WAY = 2


@dataclass(slots=True)
class _Asked(Generic[Item, Result]):
    item: Item
    key: Hashable
    result: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Gathers items and gives each of them its own result.

    `run` takes a batch and returns the results in its order. Two items with the same key never
    share a batch, since no statement can write a row twice. A batch that PostgreSQL refuses is
    run again one by one, so that the guilty one fails alone; while PostgreSQL is away all fail
    at once, those that still wait too.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._run = run
        self._waiting: deque[_Asked[Item, Result]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._start_is_due = False

    async def do(self, item: Item, key: Hashable) -> Result:
        """Return the result of `item`, or raise its error. A caller may give up: it goes alone."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append(_Asked(item, key, result))
        if not self._start_is_due and len(self._under_way) < MAX_UNDER_WAY:
            self._start_is_due = True
            # Not in the context of this caller: a batch belongs to all of them.
            loop.call_soon(self._start, context=Context())
        return await result

    def _start(self) -> None:
        self._start_is_due = False
        while self._waiting and len(self._under_way) < MAX_UNDER_WAY:
            batch = self._next_batch()
            if batch:
                task = asyncio.create_task(self._do_batch(batch))
                self._under_way.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start()

    def _next_batch(self) -> list[_Asked[Item, Result]]:
        batch: dict[Hashable, _Asked[Item, Result]] = {}
        put_off = []
        while self._waiting and len(batch) < MAX_SIZE:
            asked = self._waiting.popleft()
            if asked.result.done():
                continue  # given up before it began
            if asked.key in batch:
                put_off.append(asked)
            else:
                batch[asked.key] = asked
        self._waiting.extendleft(reversed(put_off))
        return list(batch.values())

    async def _do_batch(
        self,
        batch: Sequence[_Asked[Item, Result]],
        behind: Sequence[_Asked[Item, Result]] = (),
    ) -> None:
        """Give each of the batch its result; those `behind` would meet the same outage."""
        try:
            results = await self._run([asked.item for asked in batch])
        except DatabaseRefused as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for n, asked in enumerate(batch, start=1):
                if not asked.result.done():
                    await self._do_batch([asked], batch[n:])
        except DatabaseUnavailable as error:
            _fail([*batch, *behind, *self._waiting], error)
            self._waiting.clear()
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for asked, result in zip(batch, results, strict=True):
                if not asked.result.done():
                    asked.result.set_result(result)


def _fail(batch: Sequence[_Asked[Item, Result]], error: BaseException) -> None:
    for asked in batch:
        if not asked.result.done():
            asked.result.set_exception(error)
