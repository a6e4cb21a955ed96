"""The end of a job: recorded until Redis has taken it, whether it is done, failed or put off."""

from __future__ import annotations

import asyncio
import json
import math
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bullmq import Job, UnrecoverableError
from redis.exceptions import RedisError, ResponseError

from orderflow.bull.backoff import backoff_delay_ms
from orderflow.bull.replies import will_pass
from orderflow.bull.taking import TakingWorker, failure_fields

T = TypeVar("T")

#: Between two tries to record an end that Redis did not take.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Postponed(Exception):
    """Raised by a processor: this job, and any other, has to wait, which is no failed attempt."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"postponed by {after_s:.3f} s")
        self.after_s = after_s


class LostJob(Exception):
    """The job's lock is not ours any more; another worker has it, or will."""


class EndingWorker(TakingWorker):
    """A worker that ends the jobs it took, each with the call that brings the next one."""

    async def _postpone(self, job: Job, token: str, after_s: float) -> None:
        """Put a job off without counting an attempt, and take no other until then."""
        self.rest(after_s)

        async def put_off() -> None:
            now, delay_ms = round(time.time() * 1000), math.ceil(after_s * 1000)
            await self.backend.moveToDelayed(job.id, now, delay_ms, token, {"skipAttempt": True})

        try:
            await self._until_recorded(put_off)
            self.emit("postponed", job)
        except LostJob as lost:
            self.emit("error", lost)

    async def _end_completed(self, job: Job, token: str, result: Any) -> Job | None:
        async def complete() -> list[Any] | None:
            keep = job.opts.get("removeOnComplete", False)
            moved = await self.backend.moveToCompleted(job, result, keep, token, self._fetches())
            return moved["result"] if moved else None

        try:
            json.dumps(result, allow_nan=False)
            reply = await self._until_recorded(complete)
        except LostJob as lost:
            self.emit("error", lost)
            return None
        except Exception as error:
            return await self._end_failed(job, token, error)
        job.returnvalue = result
        job.attemptsMade += 1
        self.emit("completed", job, result)
        return await self._next(reply, token)

    async def _end_failed(self, job: Job, token: str, error: BaseException) -> Job | None:
        reason = str(error) or type(error).__name__
        stack = _stack(job, error)
        fields = failure_fields(reason, stack)
        delay_ms = None
        try:
            delay_ms = await self._delay_before_retry_ms(job, error)

            async def fail() -> list[Any] | None:
                return await self._move_failed(job, token, reason, fields, delay_ms)

            reply = await self._until_recorded(fail)
        except LostJob as lost:
            self.emit("error", lost)
            return None
        except Exception as refused:
            # Kept for good and with no more attempts, whatever its options ask for.
            self.emit("error", refused)
            delay_ms = None
            reply = await self._until_recorded(
                lambda: self._move_failed(job, token, reason, fields, None, keep=False)
            )
        job.failedReason, job.stacktrace = reason, stack
        job.attemptsMade += 1
        self.emit("failed", job, error, delay_ms is None)
        return await self._next(reply, token)

    async def _move_failed(
        self,
        job: Job,
        token: str,
        reason: str,
        fields: dict[str, str],
        delay_ms: int | None,
        keep: Any = None,
    ) -> list[Any] | None:
        """Move a job to its next attempt after `delay_ms`, or to the failed ones if it has none."""
        if delay_ms is None:
            keep = job.opts.get("removeOnFail", False) if keep is None else keep
            moved = await self.backend.moveToFailed(
                job, reason, keep, token, self._fetches(), fields
            )
            return moved["result"] if moved else None
        extra = {"fieldsToUpdate": fields}
        if delay_ms == 0:
            await self.backend.retryJob(job.id, bool(job.opts.get("lifo")), token, extra)
        else:
            now = round(time.time() * 1000)
            await self.backend.moveToDelayed(job.id, now, delay_ms, token, extra)
        return None

    async def _delay_before_retry_ms(self, job: Job, error: BaseException) -> int | None:
        """Return how long until the next attempt, or None if there is to be none."""
        last = job.attemptsMade + 1 >= (job.opts.get("attempts") or 0)
        if last or isinstance(error, UnrecoverableError):
            return None
        strategy = (self.opts.get("settings") or {}).get("backoffStrategy")
        delay_ms = await backoff_delay_ms(job, error, strategy)
        return None if delay_ms == -1 else delay_ms

    async def _until_recorded(self, record: Callable[[], Awaitable[T]]) -> T:
        """Record something of a job, again and again while Redis cannot take it.

        The lock is renewed meanwhile if Redis answers at all. Raises LostJob if the job is no
        longer ours, and what Redis says if it will never take this.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await record()
            except TypeError as error:
                # BullMQ's type for every answer of its scripts.
                if "pending dependencies" in str(error):
                    raise
                raise LostJob(str(error)) from error
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) and not will_pass(error):
                    raise
                self.emit("error", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _stack(job: Job, error: BaseException) -> list[str]:
    """Return the job's stack traces with this one, as many as its options allow."""
    stack = [*job.stacktrace, "".join(traceback.format_exception(error))]
    limit = job.opts.get("stackTraceLimit")
    if limit == 0:
        return []
    return stack[-limit:] if isinstance(limit, int) and limit > 0 else stack
