"""Failures are kept past their jobs, in groups, and a whole group is retried or discarded."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from tests.conftest import events, process_environment, start_program, wait_until
from tests.integration.conftest import PlaceOrder
from tests.integration.working import ADA, add, until, working

from orderflow.bull import steering
from orderflow.bull.worker import FailedAttempt
from orderflow.contract import QueueName
from orderflow.errors import (
    BulkActionEnded,
    BulkActionNotFound,
    FailureGroupNotFound,
    GatewayUnavailable,
    JobIsRunning,
)
from orderflow.operations import bulk as on_bulk
from orderflow.operations import failures as on_failures
from orderflow.operations.audit import Outcome, list_actions
from orderflow.operations.queues import get_queue
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings

QUEUE = "probe"


@pytest.fixture
def stores(resources: Resources) -> dict[str, Any]:
    return {"db": resources.db, "queues": resources.queues}


async def counted(resources: Resources, state: str, count: int) -> bool:
    return (await get_queue(QUEUE, queues=resources.queues)).counts[state] == count


async def kept(resources: Resources, count: int) -> list[on_failures.FailureGroup]:
    """Return the groups once so many failures are in them."""

    async def groups() -> list[on_failures.FailureGroup] | None:
        found = await on_failures.list_groups(db=resources.db)
        return found if sum(group.failures for group in found) >= count else None

    found: list[on_failures.FailureGroup] = await until(groups)
    assert sum(group.failures for group in found) == count
    return found


async def fail_by_data(delivery: Any) -> dict[str, Any]:
    message = delivery.data["message"]
    if delivery.data.get("kind") == "key":
        raise KeyError(message)
    raise ValueError(message)


async def test_every_attempt_is_kept_with_its_error(
    resources: Resources, redis: Redis, settings: Settings
) -> None:
    order_id = uuid4()
    data = {"orderId": str(order_id), "message": "no answer for ada@shop.example, tok_visa"}
    await add(resources, QUEUE, "j1", data, attempts=3, removeOnFail=True)
    async with working(resources, QUEUE, fail_by_data):
        await kept(resources, 3)
        # Redis has forgotten it.
        await until(
            lambda: asyncio.sleep(0, not redis.exists(f"{settings.queue_prefix}:{QUEUE}:j1"))
        )

    failures = await on_failures.failures_of_job(QUEUE, "j1", db=resources.db)

    # Those that follow each other at once may be written in either order.
    ends = {failure.attempt: failure.final for failure in failures}
    assert ends == {1: False, 2: False, 3: True}
    failure = failures[0]
    assert failure.message == "no answer for ***@***, tok_***"
    assert "ada@" not in failure.stack
    assert "in fail_by_data" in failure.stack
    assert failure.error_type == "ValueError"
    assert failure.worker == "worker-1"
    assert await on_failures.failures_of_order(order_id, db=resources.db) == failures


async def test_what_failed_in_the_same_way_is_one_group(resources: Resources) -> None:
    for n in range(6):
        message = f"order {n}-{uuid4()} of 10.{n}.0.1 is late by {n * 17} s"
        await add(resources, QUEUE, f"late-{n}", {"message": message})
    await add(resources, QUEUE, "lost", {"message": "the order is lost"})
    await add(resources, QUEUE, "key", {"message": "the order is lost", "kind": "key"})
    async with working(resources, QUEUE, fail_by_data):
        groups = await kept(resources, 8)

    assert Counter(group.failures for group in groups) == {6: 1, 1: 2}
    late = next(group for group in groups if group.failures == 6)
    assert late.finals == 6
    assert late.error_type == "ValueError"
    assert late.place == "test_operations_failures.py:fail_by_data"
    assert late.first_seen <= late.last_seen
    assert "is late by" in late.example
    newest = await on_failures.failures_of_group(late.fingerprint, db=resources.db, limit=4)
    older = await on_failures.failures_of_group(
        late.fingerprint, db=resources.db, before=newest[-1].id
    )
    assert len({failure.job_id for failure in newest + older}) == 6
    assert await on_failures.list_groups(db=resources.db, queue="notifications") == []
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert await on_failures.list_groups(db=resources.db, since=soon) == []


async def test_one_message_from_two_places_is_two_groups() -> None:
    def fingerprint(**changes: str) -> str:
        told = {"queue": "q", "error_type": "E", "place": "a.py:f", "message": "no 7"} | changes
        return on_failures.fingerprint_of(**told)

    assert fingerprint() == fingerprint(message="no 12345")
    others = {"queue": "p", "error_type": "F", "place": "a.py:g", "message": "none"}
    prints = {fingerprint(**{name: other}) for name, other in others.items()}
    assert len(prints | {fingerprint()}) == 5


async def test_a_job_that_cannot_be_read_is_kept_too(
    resources: Resources, redis: Redis, settings: Settings
) -> None:
    await add(resources, QUEUE, "j1")
    redis.hset(f"{settings.queue_prefix}:{QUEUE}:j1", "data", "{broken")
    async with working(resources, QUEUE, fail_by_data):
        (group,) = await kept(resources, 1)

    assert "cannot be read" in group.example
    assert group.finals == 1


async def test_without_postgresql_the_jobs_go_on(
    settings: Settings, resources: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/none"
    nowhere = settings.model_copy(update={"database_url": type(settings.database_url)(url)})
    async with open_resources(nowhere) as away:
        for n in range(20):
            await add(away, QUEUE, f"j{n}", {"message": f"no {n}"})
        async with working(away, QUEUE, fail_by_data):
            await until(lambda: counted(resources, "failed", 20))
    assert await on_failures.list_groups(db=resources.db) == []
    assert "failure not kept" in capsys.readouterr().out


async def test_a_storm_of_failures_is_written_in_few_statements(
    resources: Resources, sql: Any
) -> None:
    async def record(n: int) -> None:
        error = GatewayUnavailable(reason=f"status {n}")
        attempt = FailedAttempt(QUEUE, "probe", f"j{n}", {"n": n}, 1, True, error)
        await on_failures.record_failure(attempt, "worker-1", db=resources.db)

    before = await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")
    await asyncio.gather(*(record(n) for n in range(1_000)))
    after = await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")

    assert await sql.fetchval("SELECT count(*) FROM job_failures") == 1_000
    (group,) = await on_failures.list_groups(db=resources.db)
    assert (group.failures, group.finals) == (1_000, 1_000)
    assert after - before < 50


async def test_old_failures_are_forgotten(resources: Resources, sql: Any) -> None:
    for n, message in enumerate(("old", "new")):
        error = ValueError(message)
        attempt = FailedAttempt(QUEUE, "probe", f"j{n}", None, 1, True, error)
        await on_failures.record_failure(attempt, "worker-1", db=resources.db)
    for table, column in (("job_failures", "at"), ("failure_groups", "last_seen")):
        message = "message" if table == "job_failures" else "example"
        await sql.execute(
            f"UPDATE {table} SET {column} = now() - interval '2 h' WHERE {message} = 'old'"
        )

    assert await on_failures.purge_failures(3_600, db=resources.db) == 1
    assert await on_failures.purge_failures(3_600, db=resources.db) == 0
    (group,) = await on_failures.list_groups(db=resources.db)
    assert group.example == "new"


async def test_a_worker_process_keeps_what_its_jobs_fail_of(
    settings: Settings, resources: Resources, place: PlaceOrder, tmp_path: Path
) -> None:
    """The real worker, with a gateway that is not there."""
    receipt = await place()
    environment = process_environment(settings)
    environment["GATEWAY_URL"] = f"http://127.0.0.1:{free_port()}"
    program = start_program(
        tmp_path / "worker.log", "orderflow.worker", "payment", environment=environment
    )
    try:
        await asyncio.to_thread(
            wait_until, lambda: bool(events(program, "attempt failed")), "a failed attempt"
        )
    finally:
        assert await asyncio.to_thread(program.stop) == 0
    failures = await on_failures.failures_of_order(receipt.order_id, db=resources.db)

    assert failures[-1].attempt == 1
    assert not failures[-1].final
    assert failures[-1].error_type == "GatewayUnavailable"
    assert failures[-1].job_id == f"payment-{receipt.payment_id}"


@pytest.fixture
async def failed(resources: Resources) -> on_failures.FailureGroup:
    """A group of twelve jobs that failed."""
    for n in range(12):
        await add(resources, QUEUE, f"j{n:02}", {"message": f"no {n}"})
    async with working(resources, QUEUE, fail_by_data):
        (group,) = await kept(resources, 12)
    return group


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    resources: Resources, failed: on_failures.FailureGroup, stores: Any
) -> None:
    await steering.remove(resources.queues, QUEUE, "j00")
    assert await steering.retry(resources.queues, QUEUE, "j01", steering.JobPlace.FAILED)

    run = await on_bulk.try_bulk(failed.fingerprint, **stores, examples=3)

    assert (run.jobs, run.would, run.skipped) == (12, 10, {"removed": 1, "waiting": 1})
    assert len(set(run.examples) & {f"j{n:02}" for n in range(2, 12)}) == 3
    assert await counted(resources, "failed", 10)
    with pytest.raises(FailureGroupNotFound):
        await on_bulk.try_bulk("0123456789abcdef", **stores)
    with pytest.raises(FailureGroupNotFound):
        await on_bulk.try_bulk("no\x00thing", **stores)


async def test_a_group_is_retried(
    resources: Resources, failed: on_failures.FailureGroup, stores: Any
) -> None:
    await steering.remove(resources.queues, QUEUE, "j00")
    told: list[on_bulk.BulkAction] = []
    action = await on_bulk.begin_bulk(
        "retry", failed.fingerprint, ADA, db=resources.db, per_second=1_000
    )

    ended = await on_bulk.run_bulk(action, ADA, **stores, tell=told.append)

    assert (ended.state, ended.jobs, ended.done, ended.skipped) == ("done", 12, 11, {"removed": 1})
    assert ended.ended_at is not None
    assert told[-1] == ended
    assert await counted(resources, "waiting", 11)
    assert await on_bulk.get_bulk(action.id, db=resources.db) == ended
    (done,) = await list_actions(db=resources.db)
    assert (done.action, done.outcome) == ("retry group", Outcome.DONE)
    assert done.details["done"] == 11
    assert done.details["skipped"] == {"removed": 1}


async def test_a_rate_is_kept(failed: on_failures.FailureGroup, stores: Any) -> None:
    """Twelve jobs at fifty a second cannot be over in less than eleven fiftieths."""
    action = await on_bulk.begin_bulk(
        "retry", failed.fingerprint, ADA, db=stores["db"], per_second=50
    )
    ended = await on_bulk.run_bulk(action, ADA, **stores)

    assert ended.ended_at is not None
    assert ended.ended_at - ended.started_at >= timedelta(seconds=11 / 50)


async def test_a_group_that_goes_on_failing_comes_to_its_end(
    resources: Resources, failed: on_failures.FailureGroup, stores: Any
) -> None:
    async with working(resources, QUEUE, fail_by_data):
        action = await on_bulk.begin_bulk(
            "retry", failed.fingerprint, ADA, db=resources.db, per_second=1_000
        )
        ended = await on_bulk.run_bulk(action, ADA, **stores)
        await kept(resources, 24)
    assert (ended.state, ended.done) == ("done", 12)


async def test_a_discard_of_which_half_is_refused_tells_both_halves(
    resources: Resources,
    failed: on_failures.FailureGroup,
    redis: Redis,
    settings: Settings,
    stores: Any,
) -> None:
    for n in range(6):
        # As a worker would hold them that was faster.
        redis.set(f"{settings.queue_prefix}:{QUEUE}:j{n:02}:lock", "token")
    action = await on_bulk.begin_bulk(
        "discard", failed.fingerprint, ADA, db=resources.db, per_second=1_000
    )

    ended = await on_bulk.run_bulk(action, ADA, **stores)

    assert (ended.state, ended.done, ended.refused) == ("partly", 6, 6)
    told = {refusal.job_id: refusal.reason for refusal in ended.refusals}
    ids = [f"j{n:02}" for n in range(6)]
    assert told == {name: str(JobIsRunning(job_id=name, action="removed")) for name in ids}
    assert await counted(resources, "failed", 6)
    (done,) = await list_actions(db=resources.db)
    assert done.outcome is Outcome.PARTLY
    assert len(await on_failures.failures_of_job(QUEUE, "j11", db=resources.db)) == 1


async def test_a_bulk_action_is_stopped_from_elsewhere(
    failed: on_failures.FailureGroup, stores: Any
) -> None:
    db = stores["db"]
    action = await on_bulk.begin_bulk("retry", failed.fingerprint, ADA, db=db, per_second=1)
    running = asyncio.create_task(on_bulk.run_bulk(action, ADA, **stores))
    await on_bulk.stop_bulk(action.id, ADA, db=db)
    ended = await asyncio.wait_for(running, 20)

    assert ended.state == "stopped"
    assert 1 <= ended.done < 12
    with pytest.raises(BulkActionEnded, match="stopped"):
        await on_bulk.stop_bulk(action.id, ADA, db=db)
    with pytest.raises(BulkActionNotFound):
        await on_bulk.stop_bulk(uuid4(), ADA, db=db)
    outcomes = {done.action: done.outcome for done in await list_actions(db=db)}
    assert outcomes["retry group"] is Outcome.STOPPED


async def test_one_that_is_cancelled_is_written_down_as_stopped(
    failed: on_failures.FailureGroup, stores: Any
) -> None:
    db = stores["db"]
    action = await on_bulk.begin_bulk("retry", failed.fingerprint, ADA, db=db, per_second=1)
    running = asyncio.create_task(on_bulk.run_bulk(action, ADA, **stores))
    await until(lambda: counted_of(stores, 1))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert (await on_bulk.get_bulk(action.id, db=db)).state == "stopped"
    (done,) = await list_actions(db=db)
    assert done.outcome is Outcome.STOPPED


async def counted_of(stores: Any, waiting: int) -> bool:
    return (await get_queue(QUEUE, queues=stores["queues"])).counts["waiting"] >= waiting


async def test_one_whose_process_died_is_lost(
    failed: on_failures.FailureGroup, sql: Any, stores: Any
) -> None:
    db = stores["db"]
    action = await on_bulk.begin_bulk("retry", failed.fingerprint, ADA, db=db)
    await sql.execute("UPDATE bulk_actions SET updated_at = now() - interval '1 min'")

    assert (await on_bulk.get_bulk(action.id, db=db)).state == "lost"
    assert [found.state for found in await on_bulk.list_bulk(db=db)] == ["lost"]


async def test_a_failure_of_the_contract_has_its_own_words(
    resources: Resources, stores: Any
) -> None:
    """What the processor gives up for is kept as what it was, and not as BullMQ's type for it."""
    from bullmq import UnrecoverableError

    async def refuse(_delivery: object) -> dict[str, Any]:
        try:
            raise GatewayUnavailable(reason="asleep")
        except GatewayUnavailable as error:
            raise UnrecoverableError(str(error)) from error

    await add(resources, QUEUE, "j1", attempts=3)
    async with working(resources, QUEUE, refuse):
        (group,) = await kept(resources, 1)
    assert (group.error_type, group.finals) == ("GatewayUnavailable", 1)
    assert await get_queue(QueueName.PAYMENTS, queues=stores["queues"])
