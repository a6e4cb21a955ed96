"""BullMQ's scripts as a worker calls them: with its name, which they write as `processedBy`."""

from __future__ import annotations

import time
from typing import Any

import msgpack
from bullmq.scripts import Scripts, raw2NextJobData

#: The keys of the script that takes a job, in the order that it names them.
_TAKE_KEYS = [
    "wait",
    "active",
    "prioritized",
    "events",
    "stalled",
    "limiter",
    "delayed",
    "paused",
    "meta",
    "pc",
    "marker",
]


class WorkerScripts(Scripts):  # type: ignore[misc]
    """BullMQ's scripts, with the worker's name given to them: they write it as `processedBy`."""

    def __init__(self, prefix: str, queue: str, connection: Any, worker: str | None) -> None:
        super().__init__(prefix, queue, connection)
        self._worker = {"name": worker} if worker else {}

    async def moveToActive(self, token: str, opts: dict[str, Any]) -> list[Any]:  # noqa: N802
        """Take the next job."""
        wanted = {
            "token": token,
            "lockDuration": opts["lockDuration"],
            "limiter": opts.get("limiter"),
            **self._worker,
        }
        keys = self.getKeys(_TAKE_KEYS)
        args = [self.keys[""], round(time.time() * 1000), msgpack.packb(wanted)]
        return raw2NextJobData(  # type: ignore[no-any-return]
            await self.commands["moveToActive"](keys=keys, args=args)
        )

    def moveToFinishedArgs(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        """Return the arguments that end a job and take the next."""
        keys, arguments = super().moveToFinishedArgs(*args, **kwargs)
        if self._worker:
            arguments[7] = msgpack.packb(msgpack.unpackb(arguments[7]) | self._worker)
        return keys, arguments
