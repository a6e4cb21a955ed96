"""The renewal of the locks of running jobs, and who is told of one that is lost."""

from __future__ import annotations

from typing import Any

from bullmq.lock_manager import LockManager


class Locks(LockManager):  # type: ignore[misc]
    """BullMQ's own renewal, which takes no job for lost that has just ended."""

    worker: Any
    tracked_jobs: dict[str, Any]

    async def _extend_locks(self, job_ids: list[str]) -> None:
        """Renew the locks of these jobs; tell of those that others have now."""
        tokens = [self.tracked_jobs[job_id]["token"] for job_id in job_ids]
        try:
            refused = await self.worker.backend.extendLocks(job_ids, tokens, self.lock_duration)
        except Exception as error:
            self.worker.emit("error", error)
            return
        # A job may end while this is under way, and its lock with it: that is no loss.
        lost = [job_id for job_id in refused or () if job_id in self.tracked_jobs]
        if lost:
            self.worker.emit("lockRenewalFailed", lost)
