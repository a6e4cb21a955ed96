"""Processes of ours that die, hang and come back."""

from __future__ import annotations

import asyncio
import json

from orderflow.bull.queues import open_queues
from orderflow.sandbox.chaos.crashing import OF_NOTIFICATION, OF_PAYMENT, POISON, Point
from orderflow.sandbox.chaos.scenarios import Run, scenario

_KILLS = 6
_CRASHING = "orderflow.sandbox.chaos.crashing"
#: Longer than it takes to meet a line a few times while customers order.
_MEETS_IT_WITHIN_S = 15.0


@scenario("kill-api", "Processes of the API die by SIGKILL, one after the other")
async def _kill_api(run: Run) -> list[str]:
    for _ in range(_KILLS):
        await asyncio.sleep(run.some_s(0.1, 1.0))
        run.stack.kill(run.chance.choice(run.stack.apis))
    return []


@scenario("kill-workers", "Workers of all kinds die by SIGKILL, sometimes two at once")
async def _kill_workers(run: Run) -> list[str]:
    for _ in range(_KILLS):
        await asyncio.sleep(run.some_s(0.1, 1.0))
        for name in run.chance.sample(run.stack.workers, run.chance.choice((1, 1, 2))):
            run.stack.kill(name)
    return []


@scenario(
    "crash-points",
    "A worker dies before and after each of its steps: charge, commit, queue, send, record",
)
async def _crash_points(run: Run) -> list[str]:
    faults = []
    for kind, points in (("payment", OF_PAYMENT), ("notification", OF_NOTIFICATION)):
        worker = f"{kind}-1"
        for point in points:
            number = str(run.chance.randint(1, 4))
            await run.stack.swap(worker, _CRASHING, kind, "--at", point, "--number", number)
            if not await run.stack.wait_for_death(worker, _MEETS_IT_WITHIN_S):
                faults.append(f"no worker came to {point} {number} times: nothing was tested")
        await run.stack.swap(worker, "orderflow.worker", kind, "--concurrency", "20")
    return faults


@scenario("poison", "A job ends every payment worker that runs it, until it is put aside")
async def _poison(run: Run) -> list[str]:
    workers = [name for name in run.stack.workers if name.startswith("payment-")]
    for name in workers:
        await run.stack.swap(name, _CRASHING, "payment", "--at", Point.POISON)
    wish = run.customers.wish()
    wish.body |= {"paymentMethod": "card", "paymentToken": POISON}
    async with run.customers.client() as client:
        await run.customers.order(client, wish, patient=True)
    faults = await _wait_until_put_aside(run, wish.receipts)
    for name in workers:
        await run.stack.swap(name, "orderflow.worker", "payment", "--concurrency", "20")
    return faults


async def _wait_until_put_aside(run: Run, receipts: list[dict[str, str]]) -> list[str]:
    if not receipts:
        return ["the poisoned order was not taken: nothing was tested"]
    key = f"{run.stack.settings.queue_prefix}:payment-processing:payment-{receipts[0]['paymentId']}"
    async with run.stack.redis_client() as redis:
        for _ in range(600):
            reason = await redis.hget(key, "failedReason")
            if reason and "ended its worker" in reason:
                return []
            await asyncio.sleep(0.1)
    return ["the job that ends its workers was not put aside within 60 s"]


@scenario(
    "sleepers",
    "Every job comes twice, and a worker sleeps until its jobs are another's, and wakes up",
)
async def _sleepers(run: Run) -> list[str]:
    settings = run.stack.settings
    asleep_s = (settings.worker_lock_ms + 3 * settings.worker_stalled_interval_ms) / 1_000
    again = asyncio.create_task(_deliver_again(run), name="second deliveries")
    try:
        for name in run.chance.sample(run.stack.workers, 3):
            run.stack.freeze(name)
            await asyncio.sleep(asleep_s)
            run.stack.thaw(name)
            await asyncio.sleep(run.some_s(0.2, 1.0))
    finally:
        again.cancel()
    return []


async def _deliver_again(run: Run) -> None:
    """Add each job that is seen in Redis once more, under another id."""
    seen: set[str] = set()
    async with run.stack.redis_client() as redis, open_queues(run.stack.settings) as queues:
        while True:
            for queue in ("payment-processing", "notifications"):
                async for key in redis.scan_iter(f"{run.stack.settings.queue_prefix}:{queue}:*-*"):
                    job_id = key.rpartition(":")[2]
                    if job_id in seen or job_id.startswith("again-") or key.endswith(":lock"):
                        continue
                    seen.add(job_id)
                    name, data = await redis.hmget(key, "name", "data")
                    if name and data:
                        options = {"jobId": f"again-{job_id}", "priority": 1}
                        await queues.queue(queue).add(str(name), json.loads(data), options)
            await asyncio.sleep(0.05)


@scenario("poweroff", "Everything of ours dies at once, and comes back")
async def _poweroff(run: Run) -> list[str]:
    await asyncio.sleep(run.some_s(0.5, 2.0))
    for name in (*run.stack.apis, *run.stack.workers):
        run.stack.kill(name)
    await asyncio.sleep(1)
    return []
