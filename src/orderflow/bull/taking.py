"""Taking jobs: waiting until there may be one, and reading what Redis gives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bullmq import Job, UnrecoverableError, Worker

from orderflow.bull.connection import BLOCK_S
from orderflow.bull.producer import node_client_name

Processor = Callable[[Job, str], Awaitable[Any]]


class TakingWorker(Worker):  # type: ignore[misc]
    """BullMQ's worker, as far as it takes jobs: one call at a time waits, and limits are kept."""

    running: bool
    paused: bool
    drained: bool
    _client_name_set: bool

    def __init__(self, name: str, processor: Processor, opts: dict[str, Any]) -> None:
        self._turn = asyncio.Lock()
        self._tokens = 0
        self._limited_until = 0.0
        super().__init__(name, processor, opts)

    def rest(self, seconds: float) -> None:
        """Take no job for so long; those that run go on."""
        self._limited_until = max(self._limited_until, time.monotonic() + seconds)

    async def _ensure_client_names(self) -> None:
        """Name the blocking connection as Node does, so that either side's lists have it once."""
        if self._client_name_set:
            return
        # What the server can do is not known before it is asked: until then waits are whole
        # seconds, and a job that is due within one starts late.
        await self.backend.connection.getRedisVersion()
        blocking = self.backend.blocking_connection
        await blocking.getRedisVersion()
        suffix = f":w:{self.workerName}" if self.workerName else ""
        await blocking.set_client_name(node_client_name(self.prefix, self.name) + suffix)
        self._client_name_set = True

    async def _take(self) -> Job | None:
        """Wait for a job. One slot at a time asks Redis; the others wait behind it."""
        async with self._turn:
            if not self._goes_on():
                return None
            try:
                await self._ensure_client_names()
                if (self.drained or self._is_limited()) and not await self._wait():
                    return None
                token = self._next_token()
                return await self._received(
                    await self.backend.moveToActive(token, self.opts), token
                )
            except Exception as error:
                self.emit("error", error)
                # What would have told of a job may be lost with the connection: look.
                self.drained = False
                await self._rest(self.opts["runRetryDelay"] / 1000)
                return None

    def getBlockTimeout(self, block_until: int) -> float:  # noqa: N802
        """Return how long to wait for a job: never so long that silence could be a dead line."""
        longest: float = super().getBlockTimeout(block_until)
        return min(longest, BLOCK_S)

    def _is_limited(self) -> bool:
        return self._limited_until > time.monotonic()

    async def _wait(self) -> bool:
        """Wait until there may be a job; False if it is not yet time to look."""
        limited_s = self._limited_until - time.monotonic()
        if limited_s > 0:
            await self._rest(limited_s)
            return self._fetches()
        self.waiting = asyncio.ensure_future(self.waitForJob())
        try:
            self.blockUntil = await self.waiting
        except asyncio.CancelledError:
            if is_cancelled_from_outside():
                raise
            return False
        finally:
            self.waiting = None
        return self._fetches() and bool(self.blockUntil <= time.time() * 1000)

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless a pause or the close wakes us."""
        self.waiting = asyncio.ensure_future(asyncio.sleep(seconds))
        try:
            await self.waiting
        except asyncio.CancelledError:
            if is_cancelled_from_outside():
                raise
        finally:
            self.waiting = None

    def _stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()

    def _next_token(self) -> str:
        self._tokens += 1
        return f"{self.id}:{self._tokens}"

    async def _received(self, reply: list[Any] | None, token: str) -> Job | None:
        """Read what Redis gave: a job, or when to come back."""
        if not reply:
            return None
        data, job_id, limited_ms, delayed_until = reply
        if limited_ms and limited_ms > 0:
            self.rest(limited_ms / 1000)
            # What told of a job is used up: after the rest, look, and do not wait to be told.
            self.drained = False
            return None
        try:
            job = await self.nextJobFromJobData(
                data, job_id, limited_ms or 0, delayed_until or 0, token
            )
        except Exception as error:
            await self._refuse(data, job_id, token, error)
            return None
        if job is not None:
            _mend_options(job)
            self.emit("active", job, "waiting")
        return job

    async def _refuse(
        self, data: dict[str, str], job_id: str, token: str, error: Exception
    ) -> None:
        """Fail a job that cannot be read. Its hash stays as it is, for a person to see."""
        job = Job(self, data.get("name"), None, {}, job_id)
        reason = f"the job cannot be read: {type(error).__name__}: {error}"
        await self.backend.moveToFailed(
            job, reason, False, token, False, failure_fields(reason, [])
        )
        self.emit("failed", job, UnrecoverableError(reason), True)

    def _goes_on(self) -> bool:
        """Say whether jobs are taken: a cancel may come too late for a wait that has ended."""
        return self.running and not (self.closing or self.paused)

    def _fetches(self) -> bool:
        """Say whether the next job may be taken now."""
        return self._goes_on() and not self._is_limited()

    async def _next(self, reply: list[Any] | None, token: str) -> Job | None:
        """Go on with what the end of a job brought: its lock has the same token."""
        # One that came is ours, also if a drain began while it was on its way: dropped, it would be
        # nobody's until its lock ends.
        brings_one = reply is not None and reply[0] is not None
        if not brings_one and not self._fetches():
            # Not asked for: whether there are jobs is not known.
            self.drained = False
            return None
        return await self._received(reply, token)


def _mend_options(job: Job) -> None:
    """Put what can be meant in the place of options that BullMQ's scripts would stumble over."""
    attempts = job.opts.get("attempts")
    if not isinstance(attempts, int | float):
        job.opts["attempts"] = job.attempts = 1
    for option in ("removeOnComplete", "removeOnFail"):
        if not isinstance(job.opts.get(option, False), bool | int | dict):
            # Kept: a person must be able to see what was wrong.
            job.opts[option] = False


def is_cancelled_from_outside() -> bool:
    """Say whether someone cancels this task, rather than a part of it cancelling itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failure_fields(reason: str, stack: list[str]) -> dict[str, str]:
    """Return the fields of a failed job that say why."""
    return {"failedReason": reason, "stacktrace": json.dumps(stack, separators=(",", ":"))}
