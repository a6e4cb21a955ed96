"""How long a failed job waits for its next attempt, by Node BullMQ's rules (its `Backoffs`)."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

from bullmq import Job


async def backoff_delay_ms(
    job: Job, error: BaseException, strategy: Callable[..., Any] | None
) -> int:
    """Return the delay before the next attempt; -1 says that there is to be none.

    `strategy` is the worker's own, for types that BullMQ does not know; it may be a coroutine.
    Raises ValueError for an unknown type without one.
    """
    backoff = job.opts.get("backoff")
    if not isinstance(backoff, dict):
        return 0
    attempts_made = job.attemptsMade + 1
    kind = backoff.get("type")
    if kind == "fixed":
        return _with_jitter(backoff.get("delay") or 0, backoff.get("jitter") or 0)
    if kind == "exponential":
        delay = round(2 ** (attempts_made - 1) * (backoff.get("delay") or 0))
        return _with_jitter(delay, backoff.get("jitter") or 0)
    if strategy is None:
        raise ValueError(f"Unknown backoff strategy {kind}")
    chosen = strategy(attempts_made, kind, error, job)
    return int(await chosen if inspect.isawaitable(chosen) else chosen)


def _with_jitter(delay: float, jitter: float) -> int:
    """Spread a delay over the last `jitter` (0 to 1) of itself."""
    if jitter <= 0:
        return int(delay)
    return int(random.random() * delay * jitter + delay * (1 - jitter))  # noqa: S311 - no secret
