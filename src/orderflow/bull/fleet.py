"""Who works on the queues, in either language: what their connections and jobs tell of them.

A BullMQ worker names its waiting connection after its queue and itself, and Redis lists the
connections. How many jobs a worker would run at once, no worker tells.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orderflow.bull.masters import masters_of
from orderflow.bull.queues import JobQueues
from orderflow.queue_names import QueueNames

#: Jobs that run at once on a queue and are looked at; more are counted only.
MOST_LOOKED_AT = 2_000


@dataclass(frozen=True, slots=True)
class ConnectedWorker:
    """The waiting connection of one worker. `name` is None where it was given none."""

    queue: str
    name: str | None
    language: str  # python, node, or unknown
    address: str
    age_s: int
    idle_s: int


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job in the hands of a worker, by the name that wrote itself to it.

    `lock_ms` is how long its lock lasts, None if it has none: then its worker is gone.
    """

    queue: str
    job_id: str
    name: str
    worker: str | None
    token: str | None
    started_ms: int | None
    lock_ms: int | None


async def connected_workers(queues: JobQueues) -> list[ConnectedWorker]:
    """Return the workers on every queue of our prefix. Raises redis.RedisError.

    In a cluster those on a queue of others are seen where one of ours is on the same master.
    """
    masters = (await masters_of(queues)).values()
    seen = await asyncio.gather(*(master.client_list() for master in masters))
    workers = (_worker(client, queues.names) for clients in seen for client in clients)
    return [worker for worker in workers if worker is not None]


async def running_jobs(queues: JobQueues, queue: str) -> list[RunningJob]:
    """Return the jobs that run on a queue, MOST_LOOKED_AT at most. Raises redis.RedisError."""
    redis, active = queues.client_of(queue), queues.names.key(queue, "active")
    ids = await redis.lrange(active, -MOST_LOOKED_AT, -1)
    return list(await asyncio.gather(*(_running(queues, queue, str(job_id)) for job_id in ids)))


async def _running(queues: JobQueues, queue: str, job_id: str) -> RunningJob:
    redis: Any = queues.client_of(queue)
    key = queues.names.key(queue, job_id)
    (name, worker, started), token, left_ms = await asyncio.gather(
        redis.hmget(key, ["name", "pb", "processedOn"]),
        redis.get(f"{key}:lock"),
        redis.pttl(f"{key}:lock"),
    )
    return RunningJob(
        queue=queue,
        job_id=job_id,
        name=name or "",
        worker=worker,
        token=token,
        started_ms=int(started) if started else None,
        lock_ms=int(left_ms) if token and left_ms >= 0 else None,
    )


#: The name of a worker of orderflow: its host, and its process.
_OURS = re.compile(r".+-\d+")


def _worker(client: Mapping[str, Any], names: QueueNames) -> ConnectedWorker | None:
    base, _, name = str(client.get("name", "")).partition(":w:")
    prefix, _, label = base.rpartition(":")
    encoded = _decoded(label)
    either = (queue for queue in (encoded, label) if queue and names.prefix_of(queue) == prefix)
    queue = next(either, None)
    if queue is None:
        return None
    library = str(client.get("lib-name") or "")
    if queue != encoded:
        # The stock Python client names its connections plainly, and in no other way.
        language = "python"
    elif library:
        language = "python" if library.startswith("redis-py") else "node"
    else:
        # Before Redis 7.2 a connection does not say what it is from.
        language = "python" if _OURS.fullmatch(name) else "unknown"
    return ConnectedWorker(
        queue=queue,
        name=name or None,
        language=language,
        address=str(client.get("addr", "")),
        age_s=int(client.get("age", 0)),
        idle_s=int(client.get("idle", 0)),
    )


def _decoded(label: str) -> str | None:
    """Return the queue that a label in base64 stands for, or None if it is none."""
    try:
        queue = base64.b64decode(label, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return queue if queue.isprintable() and queue else None


def queues_of(workers: Sequence[ConnectedWorker]) -> list[str]:
    """Return the queues that someone works on, each once."""
    return sorted({worker.queue for worker in workers})
