"""How many jobs ended in each minute, from the counters that BullMQ keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orderflow.bull.queues import JobQueues

_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class History:
    """Jobs that ended by the minute, the oldest first; the last minute is not over yet."""

    completed: Sequence[int]
    failed: Sequence[int]

    @property
    def failure_rate(self) -> float | None:
        """The share of failed jobs among those that ended; None where none did."""
        failed = sum(self.failed)
        ended = sum(self.completed) + failed
        return failed / ended if ended else None


async def read_history(queues: JobQueues, queue: str, minutes: int) -> History:
    """Read the last `minutes`. Raises redis.RedisError."""
    seconds, _ = await queues.client_of(queue).time()
    this_minute = int(seconds) * 1_000 // _MINUTE_MS
    completed, failed = await asyncio.gather(
        *(_by_minute(queues, queue, end, minutes, this_minute) for end in ("completed", "failed"))
    )
    return History(completed, failed)


async def _by_minute(
    queues: JobQueues, queue: str, end: str, minutes: int, this_minute: int
) -> list[int]:
    redis, key = queues.client_of(queue), queues.names.key(queue, f"metrics:{end}")
    counters: list[Any]
    counters, whole = await asyncio.gather(
        redis.hmget(key, ["count", "prevCount", "prevTS"]),
        redis.lrange(f"{key}:data", 0, minutes - 1),
    )
    count, before, last_ms = counters
    if last_ms is None:
        return [0] * minutes
    # The list was brought up to date by the job that came first in its minute: that minute, which
    # is in no list yet, and all that came before it.
    newest_first = [int(count) - int(before or 0), *map(int, whole)]
    idle = max(0, this_minute - int(float(last_ms)) // _MINUTE_MS)
    counted = ([0] * min(idle, minutes) + newest_first)[:minutes]
    return [0] * (minutes - len(counted)) + counted[::-1]
