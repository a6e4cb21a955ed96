"""BullMQ's Queue, held to what Node's Queue takes, refuses and writes.

The Python client adds what Node refuses, keeps some options under names that Node does not read,
and does not look at the replies of a bulk add. A mixed fleet needs one set of rules: Node's.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from bullmq import Job, Queue

from orderflow.bull.scripts import NodeScripts, to_json
from orderflow.bull.trace import current_carrier
from orderflow.contract import MAX_PRIORITY

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")


class NodeQueue(Queue):  # type: ignore[misc]
    """A queue whose jobs are in Redis as Node would have written them."""

    def __init__(self, name: str, opts: dict[str, Any]) -> None:
        super().__init__(name, opts)
        self.scripts = self.backend.scripts = NodeScripts(
            self.prefix, name, self.backend.connection
        )

    async def add(self, name: str, data: Any, opts: dict[str, Any] | None = None) -> Job:
        """Add a job. Raises ValueError with Node's words for what Node refuses."""
        job_id = (opts or {}).get("jobId")
        if job_id in (0, "0") or str(job_id).startswith("0:"):
            raise ValueError("JobId cannot be '0' or start with '0:'")
        job = self._make(name, data, opts)
        job.id = await self.scripts.addJob(job)
        return job

    async def addBulk(self, jobs: list[dict[str, Any]]) -> list[Job]:  # noqa: N802
        """Add all of the jobs, or none if Node would refuse one."""
        made = [self._make(job["name"], job.get("data"), job.get("opts")) for job in jobs]
        ids = await self.backend.addJobs(made)
        # A refusal of the script is a number in place of the id.
        for job, job_id in zip(made, ids, strict=True):
            if isinstance(job_id, int) and job_id < 0:
                raise self.scripts.finishedErrors(
                    {"code": job_id, "parentKey": job.parentKey, "command": "addJob"}
                )
        return made

    async def resume(self) -> None:
        """Let jobs be taken again; also those that a 5.x client laid into its list `paused`.

        BullMQ's script moves at most 7,000 of them a call where both lists have jobs.
        """
        await self.backend.pause(False)
        while await self.client.exists(self.keys["paused"]):
            await self.backend.pause(False)

    async def get_workers(self) -> list[dict[str, str]]:
        """Return the workers on this queue, of either language, as CLIENT LIST shows them."""
        names = {node_client_name(self.prefix, self.name), f"{self.prefix}:{self.name}"}
        return [
            client | {"rawname": client["name"], "name": self.name}
            for client in await self.client.client_list()
            if client.get("name", "").partition(":w:")[0] in names
        ]

    def _make(self, name: str, data: Any, opts: dict[str, Any] | None) -> Job:
        """Return a job as Node would make it. Raises ValueError for what Node refuses."""
        all_opts = _with_trace({**self.jobsOpts, **(opts or {})})
        check_options(name, data, all_opts)
        job = Job(self, name, data, all_opts)
        if "delay" not in all_opts:
            # The client writes a delay of 0 to every job; Node leaves it out.
            del job.opts["delay"]
        return job


def node_client_name(prefix: str, queue: str) -> str:
    """Return what Node's workers on a queue call their connections; a worker's name may follow."""
    return f"{prefix}:{base64.b64encode(queue.encode()).decode()}"


def check_options(name: str, data: Any, opts: dict[str, Any]) -> None:
    """Raise ValueError, in Node's words, for options that Node refuses."""
    _check_id(opts.get("jobId"))
    _check_numbers(opts)
    limit = opts.get("sizeLimit")
    if limit and len(to_json(data).encode()) > limit:
        raise ValueError(f"The size of job {name} exceeds the limit {limit} bytes")
    deduplication = opts.get("deduplication")
    if deduplication:
        if not deduplication.get("id"):
            raise ValueError("Deduplication id must be provided")
        if opts.get("parent"):
            raise ValueError("Deduplication and parent options cannot be used together")
    if "debounce" in opts:
        raise ValueError("Debounce option has been removed. Use deduplication option instead")


def _check_id(job_id: Any) -> None:
    if not job_id:
        return
    if not isinstance(job_id, str):
        raise ValueError("JobId must be a string")  # noqa: TRY004 - one type for all refusals
    if _INTEGER.fullmatch(job_id):
        raise ValueError("Custom Id cannot be integers")
    # Three parts are how BullMQ itself names the jobs of its schedulers.
    if ":" in job_id and job_id.count(":") != 2:
        raise ValueError("Custom Id cannot contain :")


def _check_numbers(opts: dict[str, Any]) -> None:
    priority = opts.get("priority") or 0
    if int(priority) != priority:
        raise ValueError("Priority should not be float")
    if priority > MAX_PRIORITY:
        raise ValueError(f"Priority should be between 0 and {MAX_PRIORITY}")
    backoff = opts.get("backoff")
    if isinstance(backoff, dict) and not 0 <= (backoff.get("jitter") or 0) <= 1:
        raise ValueError("Jitter should be between 0 and 1")


def _with_trace(opts: dict[str, Any]) -> dict[str, Any]:
    """Add the trace of the job that runs here, unless the options say something of it."""
    carrier = current_carrier()
    if carrier is None or "telemetry" in opts:
        return opts
    return opts | {"telemetry": {"metadata": carrier}}
