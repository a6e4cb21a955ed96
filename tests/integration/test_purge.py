"""Orders that ended long ago are deleted with all that hangs on them, and no others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.conftest import process_environment
from tests.integration.conftest import PlaceOrder
from tests.integration.kept import age, columns, drop_jobs, live_an_order
from tests.integration.working import ADA, until

from orderflow.contract import payment_job
from orderflow.ended import Reason
from orderflow.operations import data
from orderflow.operations.audit import list_actions
from orderflow.purge import Purged, purge_orders
from orderflow.resources import Resources

AGE = timedelta(days=400)
OLD = datetime.now(UTC) - timedelta(days=500)

#: What was done by hand stays for ever, and deliveries have an end of their own.
KEPT = {"audit_log", "webhook_deliveries"}


@pytest.fixture
def purge(resources: Resources):
    async def purge(**how: Any) -> Purged:
        stop = how.pop("stop", asyncio.Event())
        return await purge_orders(AGE, db=resources.db, queues=resources.queues, stop=stop, **how)

    return purge


@pytest.fixture
async def old(resources: Resources, sql, redis) -> UUID:
    """An order that left a trace everywhere and ended long ago: its id."""
    await live_an_order(resources, sql)
    await age(sql, 500)
    await drop_jobs(redis, resources)
    order_id: UUID = await sql.fetchval("SELECT id FROM orders")
    return order_id


async def test_all_that_hangs_on_an_order_goes_with_it(purge, old, sql, place: PlaceOrder) -> None:
    payment_id = await sql.fetchval("SELECT id FROM payments")
    young = await place()
    would = await purge(dry_run=True)
    assert await sql.fetchval("SELECT count(*) FROM orders") == 2
    done = await purge()
    assert done.rows == would.rows
    assert {table for table, count in done.rows.items() if count} == {
        *("orders", "order_items", "payments", "stray_charges", "refunds", "notifications"),
        *("order_events", "event_messages", "idempotency_keys", "gateway_events"),
        *("book_differences", "job_failures"),
    }
    keys = await columns(sql, "uuid")
    for table, column in keys:
        if table not in KEPT and column in ("order_id", "payment_id"):
            left = await sql.fetchval(
                f"SELECT count(*) FROM {table} WHERE {column} = ANY($1)", [old, payment_id]
            )
            assert left == 0, (
                f"{table} keeps rows of orders that are gone: purge.sql has to name it"
            )
    assert await sql.fetchval("SELECT id FROM orders") == young.order_id
    assert (await purge()).rows["orders"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE orders SET status = 'confirmed'", "confirmed"),
        ("UPDATE orders SET status = 'processing', notified_at = NULL", "processing"),
        ("UPDATE orders SET notified_at = NULL", Reason.NOT_TOLD),
        ("UPDATE order_events SET told_at = NULL", Reason.NOT_TOLD),
        ("UPDATE refunds SET status = 'processing'", Reason.REFUND),
        ("UPDATE orders SET status = 'cancelled'", Reason.MONEY),
        ("UPDATE payments SET status = 'processing'", Reason.MONEY),
        ("UPDATE stray_charges SET refunded_at = NULL", Reason.STRAY),
        ("UPDATE book_differences SET settled_at = NULL", Reason.BOOKS),
        ("UPDATE gateway_events SET handled_at = NULL", Reason.EVENT),
        (
            "UPDATE webhook_deliveries SET status = 'waiting', due_at = now(), ended_at = NULL",
            Reason.WEBHOOK,
        ),
        ("UPDATE orders SET updated_at = now()", Reason.CHANGED),
        ("UPDATE payments SET updated_at = now()", Reason.CHANGED),
        ("UPDATE refunds SET updated_at = now()", Reason.CHANGED),
        ("UPDATE order_events SET at = now()", Reason.CHANGED),
    ],
)
async def test_what_has_not_ended_is_kept(purge, old, sql, change: str, reason: str) -> None:
    await sql.execute(change)
    for dry_run in (True, False):
        kept = await purge(dry_run=dry_run)
        assert (kept.kept, kept.rows["orders"]) == (Counter({reason: 1}), 0)
    assert await sql.fetchval("SELECT id FROM orders") == old


async def test_a_shop_that_ships_by_other_means_says_so(purge, old, sql) -> None:
    await sql.execute("UPDATE orders SET status = 'confirmed'")
    assert (await purge(undelivered=True)).rows["orders"] == 1
    assert await sql.fetchval("SELECT count(*) FROM orders") == 0, old


async def test_a_job_that_waits_keeps_its_order_and_one_that_ended_goes(
    purge, old, resources, sql, redis
) -> None:
    payment = str(await sql.fetchval("SELECT id FROM payments"))
    job = payment_job(payment, str(old), "card", 1)
    await resources.queues.add(job)
    assert (await purge()).kept == Counter({Reason.JOB: 1})
    key = f"{resources.settings.queue_prefix}:payment-processing"
    redis.zrem(f"{key}:prioritized", job.job_id)
    redis.zadd(f"{key}:failed", {job.job_id: 1})
    done = await purge()
    assert (done.rows["orders"], done.jobs) == (1, 1)
    assert redis.exists(f"{key}:{job.job_id}") == 0


async def test_a_refund_that_comes_between_keeps_its_order(purge, old, sql) -> None:
    order = await sql.fetchrow("SELECT order_id, id, amount FROM payments")
    async with asyncio.TaskGroup() as group, sql.transaction():
        await sql.execute("SELECT FROM payments FOR UPDATE")
        await sql.execute(
            "INSERT INTO refunds (id, order_id, payment_id, cause, amount, currency)"
            " VALUES ($1, $2, $3, 'request', 1, 'EUR')",
            *(uuid4(), order["order_id"], order["id"]),
        )
        purging = group.create_task(purge())
        await until(lambda: sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    assert purging.result().rows["orders"] == 0
    assert await sql.fetchval("SELECT id FROM orders") == old


async def add_old_orders(sql: Any, ids: list[UUID]) -> None:
    """Write cancelled orders as short as they come."""
    await sql.execute(
        "INSERT INTO orders (id, source, status, total, currency, created_at, updated_at,"
        " notified_at) SELECT id, 'external', 'cancelled', 1, 'EUR', $2, $2, $2"
        " FROM unnest($1::uuid[]) id",
        *(ids, OLD),
    )
    await sql.execute(
        "INSERT INTO payments (id, order_id, method, amount, currency, status, decline_reason,"
        " created_at, updated_at) SELECT gen_random_uuid(), id, 'card', 1, 'EUR', 'failed', 'x',"
        " $2, $2 FROM unnest($1::uuid[]) id",
        *(ids, OLD),
    )


def old_ids(count: int) -> list[UUID]:
    return [UUID(int=(int(OLD.timestamp() * 1_000) + n) << 80) for n in range(count)]


async def test_what_is_stopped_ends_after_its_batch_and_can_be_taken_up_again(purge, sql) -> None:
    # The ids of adopted orders begin with no time.
    await add_old_orders(sql, [*old_ids(4), UUID(int=2**128 - 2), uuid4()])
    stop = asyncio.Event()
    stopped = await purge(batch=2, stop=stop, tell=lambda _so_far: stop.set())
    assert (stopped.rows["orders"], stopped.stopped) == (2, True)
    assert await sql.fetchval("SELECT count(*) FROM orders") == 4
    rest = await purge(batch=2)
    assert (rest.rows["orders"], rest.stopped) == (4, False)


async def test_what_is_young_is_never_purged(resources) -> None:
    with pytest.raises(ValueError, match="older_than: must be 30 days or more"):
        await purge_orders(
            timedelta(days=29), db=resources.db, queues=resources.queues, stop=asyncio.Event()
        )


async def test_a_run_that_breaks_down_says_what_it_had_deleted(resources, sql) -> None:
    await add_old_orders(sql, old_ids(4))
    # From the second batch on: what refers to the order is not known to purge.
    await sql.execute("CREATE TABLE notes (order_id uuid REFERENCES orders)")
    await sql.execute("INSERT INTO notes VALUES ($1)", old_ids(4)[3])
    with pytest.raises(Exception, match="ForeignKeyViolation"):
        await data.purge_orders(
            AGE,
            ADA,
            db=resources.db,
            queues=resources.queues,
            stop=asyncio.Event(),
            batch=2,
            undelivered=False,
            tell=lambda _so_far: None,
        )
    assert await sql.fetchval("SELECT count(*) FROM orders") == 2
    [action] = await list_actions(db=resources.db, action="purge")
    assert (action.outcome, action.details["deleted"]["orders"]) == ("partly", 2)


@pytest.fixture
def command(settings, tmp_path):
    def start(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orderflow.cli", "purge", *args],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **process_environment(settings)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


async def test_the_command_asks_first_and_writes_down_what_it_did(command, resources, sql) -> None:
    await add_old_orders(sql, old_ids(3))
    for args, status, said in (
        (("--older-than", "400"), 2, "must be 30d or more"),
        (("--older-than", "400d"), 2, "say --yes"),
        (("--older-than", "400d", "--dry-run"), 0, "would be deleted"),
        (("--older-than", "400d", "--yes", "--reason", "spring"), 0, "deleted"),
        (("--older-than", "400d", "--yes"), 0, "no orders deleted"),
    ):
        process = command(*args)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert (process.returncode, said in out + err) == (status, True), out + err
    assert await sql.fetchval("SELECT count(*) FROM orders") == 0
    *_, action = await list_actions(db=resources.db, action="purge")
    assert (action.reason, action.outcome) == ("spring", "done")
    assert action.details["deleted"]["orders"] == 3


async def test_ctrl_c_ends_it_after_the_batch(command, resources, sql) -> None:
    await add_old_orders(sql, old_ids(2_000))
    process = command("--older-than", "400d", "--yes", "--json", "--batch", "1")

    async def left() -> int:
        count: int = await sql.fetchval("SELECT count(*) FROM orders")
        return count

    async def begun() -> bool:
        return await left() < 2_000

    await until(begun)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 130, err
    told = json.loads(out)
    assert (told["stopped"], told["rows"]["orders"]) == (True, 2_000 - await left())
    assert 0 < await left() < 2_000
    [action] = await list_actions(db=resources.db, action="purge")
    assert (action.outcome, action.details["deleted"]["orders"]) == (
        "stopped",
        told["rows"]["orders"],
    )
