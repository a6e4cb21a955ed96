"""Processes of ours that die, hang and come back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

from orderflow.bull.queues import open_queues
from orderflow.bull.states import JobState
from orderflow.contract import NewJob, QueueName, payment_job
from orderflow.sandbox.chaos.crashing import OF_NOTIFICATION, OF_PAYMENT, POISON, Point
from orderflow.sandbox.chaos.scenarios import Run, scenario

_KILLS = 6
_CRASHING = "orderflow.sandbox.chaos.crashing"
#: Longer than it takes to meet a line a few times while customers order.
_MEETS_IT_WITHIN_S = 30.0
#: A death is found out when the job's lock has ended, and so are five of them.
_PUT_ASIDE_WITHIN_S = 120.0


@scenario("kill-api", "Processes of the API die by SIGKILL, one after the other")
async def _kill_api(run: Run) -> list[str]:
    for _ in range(_KILLS):
        await asyncio.sleep(run.some_s(0.1, 1.0))
        run.stack.kill(run.chance.choice(run.stack.apis))
    return []


@scenario(
    "kill-workers",
    "Workers of all kinds die by SIGKILL, sometimes two at once",
    may_tell_twice=True,
)
async def _kill_workers(run: Run) -> list[str]:
    for _ in range(_KILLS):
        await asyncio.sleep(run.some_s(0.1, 1.0))
        for name in run.chance.sample(run.stack.workers, run.chance.choice((1, 1, 2))):
            run.stack.kill(name)
    return []


@scenario(
    "crash-points",
    "A worker dies before and after each of its steps: charge, commit, queue, send, record",
    may_tell_twice=True,
)
async def _crash_points(run: Run) -> list[str]:
    points = OF_PAYMENT + OF_NOTIFICATION
    for point in points:
        worker = "payment" if point in OF_PAYMENT else "notification"
        number = str(run.chance.randint(1, 3))
        options = ("--at", point, "--number", number)
        run.stack.start(point, _CRASHING, worker, *options, comes_back=False)
    died = await asyncio.gather(
        *(run.stack.wait_for_death(point, _MEETS_IT_WITHIN_S) for point in points)
    )
    for point in points:
        await run.stack.end(point)
    missed = [point for point, dead in zip(points, died, strict=True) if not dead]
    return [f"no worker came to {point}: nothing was tested" for point in missed]


@scenario("poison", "A job ends every payment worker that runs it, until it is put aside")
async def _poison(run: Run) -> list[str]:
    workers = [name for name in run.stack.workers if name.startswith("payment-")]
    for name in workers:
        await run.stack.swap(name, _CRASHING, "payment", "--at", Point.POISON)
    wish = run.customers.wish()
    wish.body |= {"paymentMethod": "card", "paymentToken": POISON}
    async with run.customers.client() as client:
        await run.customers.order(client, wish, patient=True)
    receipt = wish.receipts[0]
    job = payment_job(receipt["paymentId"], receipt["orderId"], "card", Decimal(receipt["total"]))
    put_aside = await _within(_PUT_ASIDE_WITHIN_S, lambda: _is_put_aside(run, job))
    for name in workers:
        await run.stack.swap(name, "orderflow.worker", "payment", "--concurrency", "20")
    # The marks of its deaths keep it aside; a person who has mended the workers removes it.
    removed = await _within(_PUT_ASIDE_WITHIN_S, lambda: _remove(run, job))
    return [] if put_aside and removed else ["the job was not put aside: nothing was tested"]


async def _is_put_aside(run: Run, job: NewJob) -> bool:
    async with open_queues(run.stack.settings) as queues:
        return await queues.states([job]) == [JobState.PUT_ASIDE]


async def _remove(run: Run, job: NewJob) -> bool:
    """Remove a job; False while a worker is at it."""
    async with open_queues(run.stack.settings) as queues:
        return await queues.remove(job)


async def _within(seconds: float, answers: Callable[[], Awaitable[bool]]) -> bool:
    deadline = time.monotonic() + seconds
    while not await answers():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


@scenario(
    "sleepers",
    "Every job comes twice, and a worker sleeps until its jobs are another's, and wakes up",
    may_tell_twice=True,
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
    async with open_queues(run.stack.settings) as queues:
        while True:
            for queue in queues.names.all():
                if queue == QueueName.ORDERS:
                    continue
                redis = queues.client_of(queue)
                async for key in redis.scan_iter(queues.names.key(queue, "*-*")):
                    job_id = key.rpartition(":")[2]
                    if job_id in seen or job_id.startswith("again-") or key.endswith(":lock"):
                        continue
                    seen.add(job_id)
                    name, data = await redis.hmget(key, "name", "data")
                    if name and data:
                        options = {"jobId": f"again-{job_id}", "priority": 1}
                        await queues.queue(queue).add(str(name), json.loads(data), options)
            await asyncio.sleep(0.05)


@scenario("poweroff", "Everything of ours dies at once, and comes back", may_tell_twice=True)
async def _poweroff(run: Run) -> list[str]:
    await asyncio.sleep(run.some_s(0.5, 2.0))
    for name in (*run.stack.apis, *run.stack.workers):
        run.stack.kill(name)
    await asyncio.sleep(1)
    return []
