"""A BullMQ worker of N slots: each finishes its job and takes the next one in the same call.

It is BullMQ's own Worker with another loop, on its own Lua and keys; options, events and job
objects stay as they are. The loop of the official client takes two round trips a job, and has
faults that this one does not: a limiter that limits nothing, an end of the whole worker when a
processor raises CancelledError, done work that counts as failed when Redis fails while it is
being recorded, and a pause and close that cannot be given up on.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bullmq import Job, UnrecoverableError
from bullmq.redis_connection import RedisConnection
from bullmq.timer import Timer
from redis.exceptions import RedisError

from orderflow.bull.ending import EndingWorker, LostJob, Postponed
from orderflow.bull.locks import Locks
from orderflow.bull.scripts import WorkerScripts
from orderflow.bull.suspects import SUSPECT_FROM, Suspects
from orderflow.bull.taking import Processor, is_cancelled_from_outside

#: More often than any job stalls: which of them are to fail is said by suspects.py.
_NO_LIMIT = 2**31 - 1


class SlotWorker(EndingWorker):
    """Runs the jobs of one queue, at most `concurrency` at a time.

    With the event `failed` comes, after the job and its error, whether that was its last attempt.
    Options are those of `bullmq.Worker`, where `name` is written to each job as `processedBy`;
    `blockingConnection`, a client of its own for the wait, which a handed `connection` needs; and
    `poisonDeaths`, how often a job may end its process, in place of `maxStalledCount`. What is
    kept of ended jobs, only their own options say, and a processor gets no AbortSignal.
    """

    def __init__(self, name: str, processor: Processor, opts: dict[str, Any]) -> None:
        self._slots: set[asyncio.Task[None]] = set()
        super().__init__(name, processor, opts | {"maxStalledCount": _NO_LIMIT})
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
            opts["poisonDeaths"],
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
        self.resume_event.set()
        self._stop_waiting()
        if force:
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

    def _block_on(self, connection: RedisConnection) -> None:
        self.backend.blocking_connection = self.blockingRedisConnection = connection
        self.bclient = connection.conn

    async def _run_slots(self) -> None:
        """Run the slots until a pause or the close ends them all."""
        self._slots = {
            asyncio.create_task(self._slot(), name=f"slot {number} of {self.name}")
            for number in range(self.opts["concurrency"])
        }
        await asyncio.wait(self._slots)

    async def _slot(self) -> None:
        """Take a job, work on it, go on with the one that its end brought."""
        job: Job | None = None
        while job is not None or self._goes_on():
            try:
                job = await (self._take() if job is None else self._work(job))
            except Exception as error:
                # What Redis would not take in any form: the job is found stalled, the slot goes on.
                self.emit("error", error)
                job = None

    def _cancel_slots(self) -> None:
        for slot in self._slots:
            slot.cancel()

    async def _work(self, job: Job) -> Job | None:
        """Run a job and record its end; return the job that came with that, if one did."""
        token = job.token
        self.jobs.add((job, token))
        self.lockManager.track_job(job.id, token, int(time.time() * 1000))
        try:
            try:
                if job.stalledCounter < SUSPECT_FROM:
                    result = await self._process(job, token)
                else:
                    async with self._suspects.alone(job.id, token):
                        result = await self._process(job, token)
            except Postponed as postponed:
                await self._postpone(job, token, postponed.after_s)
                return None
            except LostJob as lost:
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

    async def _process(self, job: Job, token: str) -> Any:
        if job.deferredFailure:
            raise UnrecoverableError(job.deferredFailure)
        return await self.processor(job, token)
