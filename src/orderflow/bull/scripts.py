"""BullMQ's own Lua scripts, called as Node calls them, and with little work a call.

The scripts and their keys are the client's. What is ours is the making of their arguments: a
script runs for every job, so what is the same for all of a queue is made once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from bullmq import Job
from bullmq.job import optsEncodeMap
from bullmq.scripts import Scripts, raw2NextJobData
from bullmq.utils import object_to_flat_array

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode

# The keys of each script, in the order that it names them.

_TAKE_KEYS = [
    *("wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused"),
    *("meta", "pc", "marker"),
]
_PRIORITIZED_KEYS = [
    *("marker", "meta", "id", "prioritized", "delayed", "completed", "active", "events", "pc")
]
_STANDARD_KEYS = [
    *("wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker")
]
_DELAYED_KEYS = ["marker", "meta", "id", "delayed", "completed", "events"]


def to_json(data: Any) -> str:
    """Return the text that Node's JSON.stringify would give. Raises ValueError for NaN and such."""
    text = _encode(data)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair is no text; as an escape it travels.
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text


@dataclass(frozen=True, slots=True)
class ReadyJob:
    """A job with a priority, its options those that Redis keeps."""

    name: str
    job_id: str
    data: Any
    priority: int
    opts: Mapping[str, Any]


class NodeScripts(Scripts):  # type: ignore[misc]
    """The scripts, given what Node gives them."""

    def __init__(self, prefix: str, queue: str, connection: Any) -> None:
        super().__init__(prefix, queue, connection)
        self._known_keys: dict[tuple[str, ...], list[str]] = {}

    def getKeys(self, keys: list[str]) -> list[str]:  # noqa: N802
        """Return the full names of the keys, which are the same for each call of a script."""
        names = tuple(keys)
        known = self._known_keys.get(names)
        if known is None:
            known = self._known_keys[names] = super().getKeys(keys)
        return known.copy()

    async def addJob(self, job: Job, pipe: Any = None) -> Any:  # noqa: N802
        """Add a job and return its id; a delay that is not above 0 is none.

        Raises TypeError where BullMQ refuses it. With a pipeline the reply comes with that.
        """
        delay, priority = job.opts.get("delay") or 0, job.opts.get("priority")
        if delay > 0:
            return await self._add("addDelayedJob", _DELAYED_KEYS, job, delay, pipe)
        if priority:
            return await self._add("addPrioritizedJob", _PRIORITIZED_KEYS, job, priority, pipe)
        return await self._add("addStandardJob", _STANDARD_KEYS, job, job.timestamp, pipe)

    async def _add(
        self, script: str, names: list[str], job: Job, last: int, pipe: Any = None
    ) -> Any:
        args = [*self.addJobArgs(job), last]
        reply = await self.commands[script](keys=self.getKeys(names), args=args, client=pipe)
        if isinstance(reply, int) and reply < 0:
            raise self.finishedErrors(
                {"code": reply, "parentKey": job.parentKey, "command": "addJob"}
            )
        return reply

    async def add_prioritized(self, job: ReadyJob) -> None:
        """Add a job. Raises TypeError where BullMQ refuses it.

        It writes what `addJob` writes, without a Job object: most of the work of an add.
        """
        keys, args = self._prioritized(job)
        self._check_added(job, await self.commands["addPrioritizedJob"](keys=keys, args=args))

    async def add_all_prioritized(self, jobs: Sequence[ReadyJob]) -> None:
        """Add many jobs. Raises the first error as `add_prioritized` does, after all were tried."""
        replies = await self.commands["addPrioritizedJob"].call_all(map(self._prioritized, jobs))
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            self._check_added(job, reply)

    def _prioritized(self, job: ReadyJob) -> tuple[list[str], list[Any]]:
        packed = msgpack.packb(
            [self.keys[""], job.job_id, job.name, _now_ms(), None, None, None, None, None]
        )
        opts = {**job.opts, "jobId": job.job_id, "priority": job.priority}
        args = [packed, to_json(job.data), msgpack.packb(opts), job.priority]
        return self.getKeys(_PRIORITIZED_KEYS), args

    def _check_added(self, job: ReadyJob, reply: Any) -> None:
        if isinstance(reply, int) and reply < 0:
            raise self.finishedErrors({"code": reply, "jobId": job.job_id, "command": "addJob"})

    def addJobArgs(self, job: Job) -> list[Any]:  # noqa: N802
        """Return the packed arguments of every add, in the order that the scripts read them."""
        prefix, parent_key = self.keys[""], job.parentKey
        packed = [
            prefix,
            job.id or "",
            job.name,
            job.timestamp,
            parent_key,
            f"{parent_key}:dependencies" if parent_key else None,
            job.parent,
            job.repeatJobKey,
            f"{prefix}de:{job.deduplication_id}" if job.deduplication_id else None,
        ]
        opts = self.encodeOpts(job.opts)
        return [msgpack.packb(packed), to_json(job.data), msgpack.packb(opts)]

    def encodeOpts(self, opts: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        """Return the options under their names in Redis."""
        encoded = {optsEncodeMap.get(name, name): value for name, value in opts.items()}
        telemetry = encoded.pop("telemetry", None) or {}
        if telemetry.get("metadata"):
            encoded["tm"] = telemetry["metadata"]
        if telemetry.get("omitContext"):
            encoded["omc"] = telemetry["omitContext"]
        return encoded


class WorkerScripts(NodeScripts):
    """The scripts as a worker calls them: with its name, which they write as `processedBy`."""

    def __init__(self, prefix: str, queue: str, connection: Any, opts: dict[str, Any]) -> None:
        super().__init__(prefix, queue, connection)
        metrics = opts.get("metrics") or {}
        # What is told with the end of every job, and what is told with every take.
        self._of_worker = {
            "limiter": opts.get("limiter"),
            "lockDuration": opts.get("lockDuration"),
            "maxMetricsSize": metrics.get("maxDataPoints", ""),
        }
        if opts.get("name"):
            self._of_worker["name"] = opts["name"]

    async def moveToActive(self, token: str, opts: dict[str, Any]) -> list[Any]:  # noqa: N802, ARG002
        """Take the next job."""
        keys = self.getKeys(_TAKE_KEYS)
        args = [self.keys[""], _now_ms(), msgpack.packb({"token": token, **self._of_worker})]
        return raw2NextJobData(  # type: ignore[no-any-return]
            await self.commands["moveToActive"](keys=keys, args=args)
        )

    def moveToFinishedArgs(  # noqa: N802
        self,
        job: Job,
        val: Any,
        propVal: str,  # noqa: N803 - the client calls it by this name
        shouldRemove: Any,  # noqa: N803
        target: str,
        token: str,
        fetchNext: bool = True,  # noqa: N803
        fields_to_update: dict[str, Any] | None = None,
    ) -> tuple[list[str], list[Any]]:
        """Return the keys and arguments that end a job and take the next."""
        prefix = self.keys[""]
        keys = self.getKeys([*_TAKE_KEYS[:-1], target])
        keys += (f"{prefix}{job.id}", f"{prefix}metrics:{target}", self.keys["marker"])
        opts = job.opts
        packed = msgpack.packb(
            {
                "token": token,
                "keepJobs": _keep_jobs(shouldRemove),
                "attempts": job.attempts,
                "attemptsMade": job.attemptsMade,
                "fpof": opts.get("failParentOnFailure", False),
                "cpof": opts.get("continueParentOnFailure", False),
                "idof": opts.get("ignoreDependencyOnFailure", False),
                "rdof": opts.get("removeDependencyOnFailure", False),
                **self._of_worker,
            }
        )
        value = val if propVal == "failedReason" else to_json(val)
        next_too = "1" if fetchNext else ""
        args = [job.id, _now_ms(), propVal, value or "", target, next_too, prefix, packed]
        if fields_to_update:
            args.append(msgpack.packb(object_to_flat_array(fields_to_update)))
        return keys, args


def _now_ms() -> int:
    return round(time.time() * 1000)


def _keep_jobs(remove: Any) -> dict[str, Any]:
    """Say how many ended jobs stay, of what a job's options say of removing them."""
    if isinstance(remove, dict):
        return remove
    if isinstance(remove, bool) or not isinstance(remove, int):
        return {"count": 0 if remove else -1}
    return {"count": remove}
