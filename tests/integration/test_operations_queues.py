"""Queues as operators see and steer them, on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis
from tests.integration.working import ADA, add, until, working

from orderflow.bull.places import JobPlace
from orderflow.contract import QueueName
from orderflow.errors import (
    DatabaseUnavailable,
    JobIsRunning,
    JobNotFound,
    JobNotInState,
    JobOfSchedule,
    UnknownJobState,
    UnknownQueue,
    WrongJobState,
)
from orderflow.operations import jobs as on_jobs
from orderflow.operations import queues as on_queues
from orderflow.operations.audit import Outcome, list_actions
from orderflow.operations.queues import RateLimit
from orderflow.operations.workers import list_workers
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings

QUEUE = "probe"


@pytest.fixture
def key(settings: Settings) -> Callable[[str], str]:
    return lambda part: f"{settings.queue_prefix}:{QUEUE}:{part}"


@pytest.fixture
def stores(resources: Resources) -> dict[str, Any]:
    return {"db": resources.db, "queues": resources.queues}


async def ids(resources: Resources, state: str, start: int = 0, limit: int = 20) -> list[str]:
    page = await on_jobs.list_jobs(QUEUE, state, queues=resources.queues, start=start, limit=limit)
    return [job.id for job in page.jobs]


async def test_the_queues_of_the_contract_are_always_known(resources: Resources) -> None:
    found = await on_queues.list_queues(queues=resources.queues)

    assert [queue.name for queue in found] == [queue.value for queue in QueueName]
    assert all(sum(queue.counts.values()) == 0 for queue in found)
    assert all(queue.oldest_s is None for queue in found)


async def test_another_queue_is_known_while_someone_works_on_it(resources: Resources) -> None:
    async def idle(_delivery: object) -> dict[str, Any]:
        return {}

    async def names() -> list[str]:
        return [queue.name for queue in await on_queues.list_queues(queues=resources.queues)]

    assert QUEUE not in await names()
    async with working(resources, QUEUE, idle):
        await until(lambda: _contains(names, QUEUE))
        queue = await on_queues.get_queue(QUEUE, queues=resources.queues)
        assert queue.workers == 1


async def _contains(names: Callable[[], Awaitable[list[str]]], name: str) -> bool:
    return name in await names()


async def test_an_unknown_queue_or_state_is_told_with_the_known_ones(resources: Resources) -> None:
    with pytest.raises(UnknownQueue, match="payment-processing, notifications, order-processing"):
        await on_queues.get_queue("payments", queues=resources.queues)
    with pytest.raises(UnknownQueue):
        await on_queues.get_queue("", queues=resources.queues)
    with pytest.raises(UnknownJobState, match=r"'done'.*waiting, active, delayed, failed"):
        await on_jobs.list_jobs(QueueName.PAYMENTS, "done", queues=resources.queues)


async def test_counts_and_the_age_of_the_oldest(resources: Resources) -> None:
    an_hour_ago = round(time.time() * 1000) - 3_600_000
    await add(resources, QUEUE, "young", priority=1)
    await add(resources, QUEUE, "old", priority=2_000_000, timestamp=an_hour_ago)
    await add(resources, QUEUE, "plain")
    await add(resources, QUEUE, "later", delay=60_000)

    queue = await on_queues.get_queue(QUEUE, queues=resources.queues)

    assert queue.counts["waiting"] == 3
    assert queue.counts["delayed"] == 1
    assert queue.oldest_s is not None
    assert 3_600 <= queue.oldest_s < 3_700


async def test_waiting_jobs_come_in_the_order_of_their_turn(resources: Resources) -> None:
    for n in range(3):
        await add(resources, QUEUE, f"low-{n}", priority=20)
        await add(resources, QUEUE, f"high-{n}", priority=1)
        await add(resources, QUEUE, f"plain-{n}")
    turns = [f"{kind}-{n}" for kind in ("plain", "high", "low") for n in range(3)]

    assert await ids(resources, "waiting") == turns
    for start in range(10):
        assert await ids(resources, "waiting", start, 4) == turns[start : start + 4]
    ran: list[str] = []

    async def run(delivery: Any) -> dict[str, Any]:
        ran.append(delivery.job_id)
        return {}

    async with working(resources, QUEUE, run, concurrency=1):
        await until(lambda: asyncio.sleep(0, len(ran) == 9))
    assert ran == turns
    assert sorted(await ids(resources, "completed")) == sorted(turns)


async def test_a_page_costs_what_the_page_costs(
    resources: Resources, redis: Redis, key: Callable[[str], str]
) -> None:
    """Redis counts its own commands: none goes through all of the jobs."""
    await add(resources, QUEUE, "plain")
    for first in range(0, 100_000, 10_000):
        numbers = range(first, first + 10_000)
        redis.zadd(key("prioritized"), {f"p-{n:06}": 2**32 + n for n in numbers})
        redis.lpush(key("wait"), *(f"w-{n:06}" for n in numbers))
    redis.config_resetstat()

    page = await on_jobs.list_jobs(
        QUEUE, "waiting", queues=resources.queues, start=150_000, limit=10
    )

    assert page.total == 200_001
    calls = {name: stats["calls"] for name, stats in redis.info("commandstats").items()}
    assert "cmdstat_scan" not in calls
    assert "cmdstat_keys" not in calls
    assert calls["cmdstat_zrange"] == 1
    # Each of the page, whose hashes are not there, and no other.
    assert calls["cmdstat_hmget"] == 10


async def test_a_pause_holds_until_the_resume(resources: Resources, stores: Any) -> None:
    ran: list[str] = []

    async def run(delivery: Any) -> dict[str, Any]:
        ran.append(delivery.job_id)
        return {}

    await add(resources, QUEUE, "first")
    assert (await on_queues.pause_queue(QUEUE, ADA, **stores)).paused
    async with working(resources, QUEUE, run):
        await until(lambda: list_of_workers(resources))
        await add(resources, QUEUE, "second")
        assert await ids(resources, "waiting") == ["first", "second"]
        assert not ran
        assert not (await on_queues.resume_queue(QUEUE, ADA, **stores)).paused
        await until(lambda: asyncio.sleep(0, len(ran) == 2))


async def list_of_workers(resources: Resources) -> Any:
    fleet = await list_workers(queues=resources.queues, settings=resources.settings)
    return fleet.workers


async def test_a_concurrency_holds_over_all_workers(resources: Resources, stores: Any) -> None:
    running, most = 0, 0

    async def run(_delivery: object) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return {}

    for n in range(12):
        await add(resources, QUEUE, f"j{n}")
    assert (await on_queues.set_concurrency(QUEUE, 2, ADA, **stores)).concurrency == 2
    async with working(resources, QUEUE, run, 8), working(resources, QUEUE, run, 8):
        await until(lambda: counted(resources, "completed", 12))
    assert most == 2
    assert (await on_queues.set_concurrency(QUEUE, None, ADA, **stores)).concurrency is None


async def counted(resources: Resources, state: str, count: int) -> bool:
    queue = await on_queues.get_queue(QUEUE, queues=resources.queues)
    return queue.counts[state] == count


async def test_a_rate_limit_holds_and_can_be_taken_off(resources: Resources, stores: Any) -> None:
    ran = 0

    async def run(_delivery: object) -> dict[str, Any]:
        nonlocal ran
        ran += 1
        return {}

    for n in range(10):
        await add(resources, QUEUE, f"j{n}")
    limit = RateLimit(3, 600_000)
    assert (await on_queues.set_rate_limit(QUEUE, limit, ADA, **stores)).rate_limit == limit
    async with working(resources, QUEUE, run):
        await until(lambda: asyncio.sleep(0, ran == 3))
        queue = await on_queues.get_queue(QUEUE, queues=resources.queues)
        assert queue.limited_ms > 0
        assert queue.counts["waiting"] == 7
    queue = await on_queues.set_rate_limit(QUEUE, None, ADA, **stores)
    assert queue.rate_limit is None
    assert queue.limited_ms == 0
    # One that was told to wait would do so; a new one is not.
    async with working(resources, QUEUE, run):
        await until(lambda: asyncio.sleep(0, ran == 10))


async def test_a_drain_removes_what_waits_in_steps(resources: Resources, stores: Any) -> None:
    for n in range(7):
        await add(resources, QUEUE, f"plain-{n}")
        await add(resources, QUEUE, f"high-{n}", priority=1)
    await add(resources, QUEUE, "later", delay=60_000)
    told: list[int] = []

    some = await on_queues.drain_queue(QUEUE, ADA, **stores, limit=5, progress=told.append)
    assert (some.removed, some.left) == (5, 9)
    assert told == [5]
    rest = await on_queues.drain_queue(QUEUE, ADA, **stores)
    assert (rest.removed, rest.left) == (9, 0)
    assert await ids(resources, "delayed") == ["later"]
    all_of_it = await on_queues.drain_queue(QUEUE, ADA, **stores, delayed=True)
    assert (all_of_it.removed, all_of_it.left) == (1, 0)
    jobs = resources.queues.names.key(QUEUE, "*-*")
    assert await resources.queues.client_of(QUEUE).keys(jobs) == []


async def test_a_clean_removes_what_ended_long_enough_ago(
    resources: Resources, redis: Redis, key: Callable[[str], str], stores: Any
) -> None:
    async def fail(_delivery: object) -> dict[str, Any]:
        raise ValueError("no")

    async with working(resources, QUEUE, fail):
        for name in ("old", "new"):
            await add(resources, QUEUE, name)
        await until(lambda: counted(resources, "failed", 2))
    an_hour_ago = round(time.time() * 1000) - 3_600_000
    redis.zadd(key("failed"), {"old": an_hour_ago})
    redis.hset(key("old"), "finishedOn", an_hour_ago)

    cleaned = await on_queues.clean_queue(QUEUE, "failed", 1_800, ADA, **stores)

    assert (cleaned.removed, cleaned.left) == (1, 1)
    assert await ids(resources, "failed") == ["new"]
    with pytest.raises(WrongJobState, match=r"waiting.*failed, completed"):
        await on_queues.clean_queue(QUEUE, "waiting", 0, ADA, **stores)


async def test_a_job_is_retried_and_its_attempts_count_anew(
    resources: Resources, stores: Any
) -> None:
    good = False

    async def run(_delivery: object) -> dict[str, Any]:
        if not good:
            raise ValueError("the cook is out")
        return {"served": True}

    async with working(resources, QUEUE, run):
        await add(resources, QUEUE, "j1", {"orderId": "o-1", "email": "ada@shop.example"})
        await until(lambda: counted(resources, "failed", 1))
        job = await on_jobs.get_job(QUEUE, "j1", **stores)
        assert job.summary.failed_reason == "the cook is out"
        assert job.data == {"orderId": "o-1", "email": "***"}
        assert "ValueError: the cook is out" in job.stack[0]
        good = True
        await on_jobs.retry_job(QUEUE, "j1", ADA, **stores)
        await until(lambda: counted(resources, "completed", 1))
    job = await on_jobs.get_job(QUEUE, "j1", **stores)
    assert (job.summary.attempts_made, job.return_value) == (1, {"served": True})
    assert [failure.message for failure in job.failures] == ["the cook is out"]


async def test_a_job_is_retried_with_edited_data(resources: Resources, stores: Any) -> None:
    seen: list[Any] = []

    async def run(delivery: Any) -> dict[str, Any]:
        seen.append(delivery.data)
        if delivery.data["table"] == 0:
            raise ValueError("no such table")
        return {}

    async with working(resources, QUEUE, run):
        await add(resources, QUEUE, "j1", {"table": 0, "email": "ada@shop.example"})
        await until(lambda: counted(resources, "failed", 1))
        shown = (await on_jobs.get_job(QUEUE, "j1", **stores)).data
        await on_jobs.retry_job(QUEUE, "j1", ADA, **stores, data=shown | {"table": 7})
        await until(lambda: counted(resources, "completed", 1))
    assert seen[1] == {"table": 7, "email": "ada@shop.example"}


async def test_data_that_cannot_be_right_change_nothing(resources: Resources, stores: Any) -> None:
    name, queue = "process-payment", QueueName.PAYMENTS
    await resources.queues.queue(queue).add(name, {"orderId": "o-1"}, {"jobId": "j1"})

    with pytest.raises(Exception, match="paymentId: Field required"):
        await on_jobs.retry_job(queue, "j1", ADA, **stores, data={"orderId": "o-1"})
    with pytest.raises(Exception, match="not finite"):
        await on_jobs.retry_job(queue, "j1", ADA, **stores, data={"amount": float("nan")})
    assert (await on_jobs.get_job(queue, "j1", **stores)).data == {"orderId": "o-1"}


async def test_a_running_job_is_left_alone(resources: Resources, stores: Any) -> None:
    may_end = asyncio.Event()

    async def run(_delivery: object) -> dict[str, Any]:
        await may_end.wait()
        return {}

    async with working(resources, QUEUE, run):
        await add(resources, QUEUE, "j1")
        await until(lambda: counted(resources, "active", 1))
        for action in (
            on_jobs.retry_job,
            on_jobs.remove_job,
            on_jobs.promote_job,
            on_jobs.move_to_waiting,
        ):
            with pytest.raises(JobIsRunning, match="'j1' is running"):
                await action(QUEUE, "j1", ADA, **stores)
        fleet = await list_workers(queues=resources.queues, settings=resources.settings)
        (worker,) = fleet.workers
        assert worker.language == "python"
        assert worker.process is not None
        assert worker.jobs is not None
        assert [job.id for job in worker.jobs] == ["j1"]
        assert fleet.unclaimed == []
        may_end.set()
    outcomes = {action.outcome for action in await list_actions(db=resources.db)}
    assert outcomes == {Outcome.REFUSED}


async def test_what_is_not_there_or_not_so_is_told(resources: Resources, stores: Any) -> None:
    await add(resources, QUEUE, "waits")
    await add(resources, QUEUE, "later", delay=60_000)

    for name in ("gone", "wait", "meta", "events", "id", "prioritized"):
        for action in (on_jobs.retry_job, on_jobs.remove_job, on_jobs.promote_job):
            with pytest.raises(JobNotFound, match=f"no job '{name}'"):
                await action(QUEUE, name, ADA, **stores)
    with pytest.raises(JobNotInState, match=r"'waits' is waiting.*failed or completed.*retried"):
        await on_jobs.retry_job(QUEUE, "waits", ADA, **stores)
    with pytest.raises(JobNotInState, match=r"'waits' is waiting.*delayed.*promoted"):
        await on_jobs.promote_job(QUEUE, "waits", ADA, **stores)
    await on_jobs.promote_job(QUEUE, "later", ADA, **stores)
    assert await ids(resources, "waiting") == ["waits", "later"]
    await on_jobs.remove_job(QUEUE, "waits", ADA, **stores)
    assert await ids(resources, "waiting") == ["later"]


async def test_a_job_that_a_dead_worker_left_is_taken_back(
    resources: Resources, redis: Redis, key: Callable[[str], str], stores: Any
) -> None:
    for name in ("left", "other"):
        await add(resources, QUEUE, name, priority=5)
    redis.zrem(key("prioritized"), "left")
    redis.lpush(key("active"), "left")
    redis.set(key("left:lock"), "a-token", px=60_000)

    with pytest.raises(JobIsRunning):
        await on_jobs.move_to_waiting(QUEUE, "left", ADA, **stores)
    redis.delete(key("left:lock"))
    await on_jobs.move_to_waiting(QUEUE, "left", ADA, **stores)
    assert await ids(resources, "waiting") == ["left", "other"]
    assert redis.llen(key("active")) == 0


async def test_the_next_job_of_a_schedule_stays(resources: Resources, stores: Any) -> None:
    queue = resources.queues.queue(QUEUE)
    await queue.upsertJobScheduler("tick", {"every": 3_600_000}, "tick", {}, {})
    (scheduled,) = [
        job.id for state in ("delayed", "waiting") for job in await jobs_in(resources, state)
    ]

    with pytest.raises(JobOfSchedule):
        await on_jobs.remove_job(QUEUE, scheduled, ADA, **stores)
    await on_queues.drain_queue(QUEUE, ADA, **stores, delayed=True)
    assert len(await jobs_in(resources, "delayed")) + len(await jobs_in(resources, "waiting")) == 1


async def jobs_in(resources: Resources, state: str) -> Any:
    return (await on_jobs.list_jobs(QUEUE, state, queues=resources.queues)).jobs


async def test_every_action_is_written_down_before_and_after(
    resources: Resources, sql: Any, stores: Any
) -> None:
    await on_queues.pause_queue(QueueName.PAYMENTS, ADA, **stores)
    await add(resources, QueueName.PAYMENTS, "j1", {"orderId": "o-1"})
    with pytest.raises(JobNotInState):
        await on_jobs.retry_job(QueueName.PAYMENTS, "j1", ADA, **stores)

    retried, paused = await list_actions(db=resources.db)

    assert (paused.user, paused.via, paused.reason) == ("ada", "cli", "as tested")
    assert (paused.action, paused.target) == ("pause", "payment-processing")
    assert (paused.outcome, retried.outcome) == (Outcome.DONE, Outcome.REFUSED)
    assert retried.order_id is not None
    assert "is waiting" in retried.details["why"]
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 4
    for change in (
        "UPDATE audit_log SET actor = 'eve'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ):
        with pytest.raises(Exception, match="append-only"):
            await sql.execute(change)


async def test_what_cannot_be_written_down_is_not_done(
    settings: Settings, resources: Resources
) -> None:
    nowhere = settings.model_copy(
        update={
            "database_url": type(settings.database_url)(
                f"postgresql://postgres@127.0.0.1:{free_port()}/none"
            )
        }
    )
    async with open_resources(nowhere) as away:
        with pytest.raises(DatabaseUnavailable):
            await on_queues.pause_queue(QueueName.PAYMENTS, ADA, db=away.db, queues=away.queues)
    queue = await on_queues.get_queue(QueueName.PAYMENTS, queues=resources.queues)
    assert not queue.paused
    assert queue.counts[JobPlace.WAITING] == 0
