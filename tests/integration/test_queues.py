"""The queues as use cases see them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from orderflow.bull.clients import QueueClients
from orderflow.bull.queues import JobQueues, Schedule, open_queues
from orderflow.bull.states import JobState
from orderflow.contract import NewJob, Priorities, QueueName, payment_failed_job, payment_job
from orderflow.sandbox.servers import free_port

JOB = payment_job("payment-1", "order-1", "card", Decimal("5.00"))


@pytest.fixture
async def redis(settings):
    client = Redis.from_url(settings.redis_dsn, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
async def queues(settings):
    async with open_queues(settings) as opened:
        yield opened


def key(settings, job: NewJob, name: str) -> str:
    return f"{settings.queue_prefix}:{job.queue}:{name}"


async def test_a_second_add_does_nothing_while_the_first_exists(queues, redis, settings):
    await queues.add(JOB)
    await queues.add(JOB)
    assert await redis.zrange(key(settings, JOB, "prioritized"), 0, -1) == [JOB.job_id]


@pytest.mark.parametrize(
    ("priorities", "numbers"), [(Priorities(), (1, 10)), (Priorities(20, 10, 1), (20, 10))]
)
async def test_priorities_have_the_numbers_of_the_settings(redis, settings, priorities, numbers):
    clients = QueueClients(lambda _prefix: redis)
    queues = JobQueues(clients, settings.queue_names, priorities, settings.queue_depth_limit)
    failed = payment_failed_job("order-1", None, "card_declined")
    for job, number in zip((JOB, failed), numbers, strict=True):
        await queues.add(job)
        assert await redis.hget(key(settings, job, job.job_id), "priority") == str(number)
        assert await queues.priorities_in_use(job.queue) == [number]


async def test_many_priorities_are_told_in_a_bounded_number_of_looks(queues, redis, settings):
    await redis.zadd(
        key(settings, JOB, "prioritized"), {f"j{n}": n * 2**32 + n for n in range(1, 50)}
    )
    assert await queues.priorities_in_use(JOB.queue) == list(range(1, 21))


async def test_a_job_that_cannot_be_added_in_time_is_left_and_not_an_error(settings):
    away = settings.model_copy(
        update={"redis_url": None, "redis_port": free_port(), "redis_timeout_ms": 100}
    )
    async with open_queues(away) as queues:
        assert await queues.offer(JOB) is False


async def test_a_full_queue_takes_offers_again_when_half_of_it_waits(redis, settings):
    clients = QueueClients(lambda _prefix: redis)
    queues = JobQueues(clients, settings.queue_names, Priorities(), depth_limit=4)
    jobs = [replace(JOB, job_id=f"job-{n}") for n in range(9)]

    async def offer(job: NewJob) -> bool:
        # What is known of the depth may be a little old.
        await asyncio.sleep(0.11)
        return await queues.offer(job)

    assert [await offer(job) for job in jobs[:6]] == [True] * 4 + [False] * 2
    await redis.zrem(key(settings, JOB, "prioritized"), "job-0")
    assert await queues.room(JOB.queue) == 1
    assert await offer(jobs[6]) is False
    await redis.zrem(key(settings, JOB, "prioritized"), "job-1", "job-2")
    assert await offer(jobs[7]) is True


async def test_where_a_job_is(queues, redis, settings):
    async def state() -> JobState:
        [found] = await queues.states([JOB])
        return found

    assert await state() is JobState.MISSING
    await queues.add(JOB)
    assert await state() is JobState.LIVE
    await redis.zrem(key(settings, JOB, "prioritized"), JOB.job_id)
    assert await state() is JobState.LOST
    for name in ("active", "wait", "paused"):
        await redis.rpush(key(settings, JOB, name), JOB.job_id)
        found = JobState.ACTIVE if name == "active" else JobState.LIVE
        assert await state() is found, name
        await redis.delete(key(settings, JOB, name))
    for name, expected in {
        "delayed": JobState.LIVE,
        "waiting-children": JobState.LIVE,
        "completed": JobState.COMPLETED,
        "failed": JobState.FAILED,
    }.items():
        await redis.zadd(key(settings, JOB, name), {JOB.job_id: 1})
        assert await state() is expected, name
        await redis.delete(key(settings, JOB, name))


async def test_a_job_that_a_wrong_clock_delayed_is_astray(queues, redis, settings):
    await queues.add(JOB)
    await redis.zrem(key(settings, JOB, "prioritized"), JOB.job_id)
    now_s, _ = await redis.time()
    for delay_s, expected in {60: JobState.LIVE, 3_600: JobState.ASTRAY}.items():
        due_ms = (now_s + delay_s) * 1_000
        await redis.zadd(key(settings, JOB, "delayed"), {JOB.job_id: due_ms * 4096})
        assert await queues.states([JOB]) == [expected]
    await queues.replace(JOB)
    assert await queues.states([JOB]) == [JobState.LIVE]
    assert await redis.zcard(key(settings, JOB, "delayed")) == 0


async def test_a_schedule_that_a_wrong_clock_put_far_away_is_put_back(queues, redis, settings):
    schedule = Schedule("reconcile", 15_000)
    assert await queues.ensure_schedule(QueueName.ORDERS, schedule) is True
    assert await queues.ensure_schedule(QueueName.ORDERS, schedule) is False
    schedules = f"{settings.queue_prefix}:{QueueName.ORDERS}:repeat"
    [(_, next_ms)] = await redis.zrange(schedules, 0, -1, withscores=True)
    await redis.zadd(schedules, {"reconcile": next_ms + 3_600_000})
    assert await queues.ensure_schedule(QueueName.ORDERS, schedule) is True
    [(_, again_ms)] = await redis.zrange(schedules, 0, -1, withscores=True)
    assert again_ms <= next_ms + 60_000


async def test_a_lost_job_is_replaced(queues, redis, settings):
    await queues.add(JOB)
    await redis.zrem(key(settings, JOB, "prioritized"), JOB.job_id)
    await queues.replace(JOB)
    assert await queues.states([JOB]) == [JobState.LIVE]


async def test_a_job_that_is_gone_cannot_be_retried(queues):
    assert await queues.retry(JOB, JobState.FAILED) is False
    await queues.add(JOB)
    assert await queues.retry(JOB, JobState.FAILED) is False, "it did not fail"
