"""A BullMQ worker of N slots: each finishes its job and takes the next one in the same call.

It is BullMQ's own Worker with another loop, on its own Lua and keys; options, events and job
objects stay as they are. The loop of the official client takes two round trips a job, and has
faults that this one does not: a limiter that limits nothing, an end of the whole worker when a
processor raises CancelledError, done work that counts as failed when Redis fails while it is
being recorded, and a pause and close that cannot be given up on.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bullmq import Job, UnrecoverableError, Worker
from bullmq.custom_errors import DelayedError, WaitingChildrenError
from bullmq.redis_connection import RedisConnection
from bullmq.timer import Timer
from redis.exceptions import RedisError, ResponseError

from orderflow.bull.backoff import backoff_delay_ms
from orderflow.bull.connection import BLOCK_S
from orderflow.bull.locks import Locks
from orderflow.bull.producer import node_client_name
from orderflow.bull.replies import will_pass
from orderflow.bull.scripts import WorkerScripts
from orderflow.bull.suspects import SUSPECT_FROM, Suspects

Processor = Callable[[Job, str], Awaitable[Any]]
T = TypeVar("T")

#: Between two tries to record an end that Redis did not take.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
#: More often than any job stalls: which of them are to fail is said by suspects.py.
_NO_LIMIT = 2**31 - 1


class Postponed(Exception):
    """Raised by a processor: this job, and any other, has to wait, which is no failed attempt."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"postponed by {after_s:.3f} s")
        self.after_s = after_s


class SlotWorker(Worker):  # type: ignore[misc]
    """Runs the jobs of one queue, at most `concurrency` at a time.

    With the event `failed` comes, after the job and its error, whether that was its last attempt.
    Options are those of `bullmq.Worker`, where `name` is written to each job as `processedBy`;
    `blockingConnection`, a client of its own for the wait, which a handed `connection` needs; and
    `poisonDeaths`, how often a job may end its process, in place of `maxStalledCount`.
    """

    running: bool
    paused: bool
    drained: bool
    _client_name_set: bool

    def __init__(self, name: str, processor: Processor, opts: dict[str, Any]) -> None:
        self._slots: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._tokens = 0
        self._limited_until = 0.0
        super().__init__(name, processor, opts | {"maxStalledCount": _NO_LIMIT})
        if "blockingConnection" in opts:
            self._block_on(RedisConnection(opts["blockingConnection"]))
        self.scripts = self.backend.scripts = WorkerScripts(
            self.prefix, name, self.backend.connection, self.opts
        )
        self.lockManager = Locks(
            self, self.opts["lockRenewTime"], self.opts["lockDuration"], self.id, self.workerName
        )
        self._suspects = Suspects(
            self.client,
            f"{self.prefix}:{name}",
            opts.get("poisonDeaths", 3),
            self.workerName or self.id,
            self._until_recorded,
        )

    async def run(self) -> None:
        """Work until `close`. Raises RuntimeError if it runs already."""
        if self.running:
            raise RuntimeError("Worker is already running")
        self.running = True
        self.lockManager.start()
        self.stalledCheckTimer = Timer(
            self.opts["stalledInterval"] / 1000, self.runStalledJobsCheck, self.emit
        )
        try:
            while not self.closing:
                await self.resume_event.wait()
                await self._run_slots()
        finally:
            self.running = False
            self._cancel_slots()
            self.stalledCheckTimer.stop()
            await self.lockManager.close()

    async def pause(self, do_not_wait_active: bool = False) -> None:
        """Fetch nothing more; return when the jobs that run have ended, unless told not to wait."""
        if not self.paused:
            self.paused = True
            self.resume_event.clear()
            self._stop_waiting()
        if self._slots and not do_not_wait_active:
            await asyncio.wait(self._slots)
        self.emit("paused")

    async def close(self, force: bool = False) -> None:
        """Fetch nothing more, wait for the jobs that run, and close the connections.

        With `force` the jobs that run are cancelled and left to be delivered again. A caller that
        cancels this stops waiting.
        """
        self.closing = True
        self.paused = False
        self.resume_event.set()
        self._stop_waiting()
        if force:
            self.forceClosing = True
            self.lockManager.cancel_all_jobs("worker force-closed")
            self._cancel_slots()
        if self._slots:
            await asyncio.wait(self._slots)
        await self.lockManager.close()
        try:
            await self.backend.close(force=force)
        except (RedisError, OSError) as error:
            self.emit("error", error)
        self.closed = True
        self.emit("closed")

    def rest(self, seconds: float) -> None:
        """Take no job for so long; those that run go on."""
        self._limited_until = max(self._limited_until, time.monotonic() + seconds)

    def _block_on(self, connection: RedisConnection) -> None:
        self.backend.blocking_connection = self.blockingRedisConnection = connection
        self.bclient = connection.conn

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

    async def _run_slots(self) -> None:
        """Run the slots until a pause or the close ends them all."""
        self._slots = {
            asyncio.create_task(self._slot(), name=f"slot {number} of {self.name}")
            for number in range(self.opts["concurrency"])
        }
        await asyncio.wait(self._slots)
        self._slots = set()

    async def _slot(self) -> None:
        """Take a job, work on it, go on with the one that its end brought."""
        job: Job | None = None
        while job is not None or not (self.closing or self.paused):
            try:
                job = await (self._take() if job is None else self._work(job))
            except Exception as error:
                # What Redis would not take in any form: the job is found stalled, the slot goes on.
                self.emit("error", error)
                job = None

    async def _take(self) -> Job | None:
        """Wait for a job. One slot at a time asks Redis; the others wait behind it."""
        async with self._turn:
            if self.closing or self.paused:
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
        return bool(self.blockUntil <= time.time() * 1000) and not self._is_limited()

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

    def _cancel_slots(self) -> None:
        for slot in self._slots:
            slot.cancel()

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
        job.id = job_id
        reason = f"the job cannot be read: {type(error).__name__}: {error}"
        await self.backend.moveToFailed(job, reason, False, token, False, _failure(reason, []))
        self.drained = False
        self.emit("failed", job, UnrecoverableError(reason), True)

    async def _work(self, job: Job) -> Job | None:
        """Run a job and record its end; return the job that came with that, if one did."""
        token = job.token
        self.jobs.add((job, token))
        controller = self.lockManager.track_job(
            job.id, token, int(time.time() * 1000), self._processor_wants_signal
        )
        try:
            try:
                if job.stalledCounter < SUSPECT_FROM:
                    result = await self._process(job, token, controller)
                else:
                    async with self._suspects.alone(job.id, token):
                        result = await self._process(job, token, controller)
            except (DelayedError, WaitingChildrenError):
                return None
            except Postponed as postponed:
                await self._postpone(job, token, postponed.after_s)
                return None
            except _LostJob as lost:
                self.emit("error", lost)
                return None
            except asyncio.CancelledError as error:
                if is_cancelled_from_outside():
                    raise
                return await self._end_failed(job, token, error)
            except Exception as error:
                return await self._end_failed(job, token, error)
            return await self._end_completed(job, token, result)
        finally:
            self.jobs.discard((job, token))
            self.lockManager.untrack_job(job.id)

    async def _process(self, job: Job, token: str, controller: Any) -> Any:
        for option in ("removeOnComplete", "removeOnFail"):
            if option in self.opts:
                job.opts.setdefault(option, self.opts[option])
        if job.deferredFailure:
            raise UnrecoverableError(job.deferredFailure)
        if controller is not None:
            return await self.processor(job, token, controller.signal)
        return await self.processor(job, token)

    async def _postpone(self, job: Job, token: str, after_s: float) -> None:
        """Put a job off without counting an attempt, and take no other until then."""
        self.rest(after_s)

        async def put_off() -> None:
            now, delay_ms = round(time.time() * 1000), math.ceil(after_s * 1000)
            await self.backend.moveToDelayed(job.id, now, delay_ms, token, {"skipAttempt": True})

        try:
            await self._until_recorded(put_off)
            self.emit("postponed", job)
        except _LostJob as lost:
            self.emit("error", lost)

    async def _end_completed(self, job: Job, token: str, result: Any) -> Job | None:
        async def complete() -> list[Any] | None:
            keep = job.opts.get("removeOnComplete", False)
            moved = await self.backend.moveToCompleted(job, result, keep, token, self._fetches())
            return moved["result"] if moved else None

        try:
            json.dumps(result, allow_nan=False)
            reply = await self._until_recorded(complete)
        except _LostJob as lost:
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
        fields = _failure(reason, stack)
        delay_ms = None
        try:
            delay_ms = await self._delay_before_retry_ms(job, error)

            async def fail() -> list[Any] | None:
                return await self._move_failed(job, token, reason, fields, delay_ms)

            reply = await self._until_recorded(fail)
        except _LostJob as lost:
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
        if last or job.discarded or isinstance(error, UnrecoverableError):
            return None
        strategy = (self.opts.get("settings") or {}).get("backoffStrategy")
        delay_ms = await backoff_delay_ms(job, error, strategy)
        return None if delay_ms == -1 else delay_ms

    async def _until_recorded(self, record: Callable[[], Awaitable[T]]) -> T:
        """Record something of a job, again and again while Redis cannot take it.

        The lock is renewed meanwhile if Redis answers at all. Raises _LostJob if the job is no
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
                raise _LostJob(str(error)) from error
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) and not will_pass(error):
                    raise
                self.emit("error", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _goes_on(self) -> bool:
        return not (self.closing or self.paused)

    def _fetches(self) -> bool:
        """Say whether the next job is to be taken with the end of one."""
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


class _LostJob(Exception):
    """The job's lock is not ours any more; another worker has it, or will."""


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


def _failure(reason: str, stack: list[str]) -> dict[str, str]:
    return {"failedReason": reason, "stacktrace": json.dumps(stack, separators=(",", ":"))}


def _stack(job: Job, error: BaseException) -> list[str]:
    """Return the job's stack traces with this one, as many as its options allow."""
    stack = [*job.stacktrace, "".join(traceback.format_exception(error))]
    limit = job.opts.get("stackTraceLimit")
    if limit == 0:
        return []
    return stack[-limit:] if isinstance(limit, int) and limit > 0 else stack
