"""One run of the reconciler, and what it may find in the queues."""

from __future__ import annotations

import asyncpg
from redis import Redis

from orderflow.checkout import Receipt
from orderflow.contract import NewJob, payment_job
from orderflow.reconcile import Counts, Rules, run_once
from orderflow.resources import Resources


async def run(resources: Resources, grace_ms: int = 0, rules: Rules = Rules()) -> Counts:  # noqa: B008 - it is frozen
    return await run_once(
        db=resources.db,
        queues=resources.queues,
        gateway=resources.gateway,
        grace_ms=grace_ms,
        rules=rules,
    )


async def run_over_rested(
    resources: Resources,
    sql: asyncpg.Connection,
    rules: Rules = Rules(),  # noqa: B008 - it is frozen
) -> Counts:
    """Run over orders that rested for long, and not once more over those that the run ends.

    It looks at open and at ended orders side by side.
    """
    await sql.execute("UPDATE orders SET updated_at = now() - interval '1 h'")
    return await run(resources, grace_ms=60_000, rules=rules)


def lose_all_jobs(redis: Redis, resources: Resources) -> None:
    for key in redis.scan_iter(match=f"{resources.settings.queue_prefix}:*"):
        redis.delete(key)


def payment_job_of(receipt: Receipt) -> NewJob:
    return payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)


def complete_in_node(
    redis: Redis, resources: Resources, job: NewJob, result: str = '{"success":true}'
) -> None:
    """Leave the keys that a worker in Node leaves when it has done a job."""
    prefix = f"{resources.settings.queue_prefix}:{job.queue}"
    redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.zadd(f"{prefix}:completed", {job.job_id: 1})
    redis.hset(f"{prefix}:{job.job_id}", "returnvalue", result)
