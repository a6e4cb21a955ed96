"""A person is forgotten: nothing that is kept anywhere names them, and the money stays."""

from __future__ import annotations

import asyncio
import json
import subprocess

import asyncpg
import pytest
from tests.conftest import process_environment
from tests.integration.cli import run_command
from tests.integration.conftest import PlaceOrder
from tests.integration.kept import (
    PERSON,
    all_keys,
    all_rows,
    found_of_person,
    live_an_order,
)
from tests.integration.life import charge, tell
from tests.integration.working import ADA

from orderflow.bull.states import JobState
from orderflow.contract import payment_job
from orderflow.errors import JobIsRunning, UserHasOpenOrders
from orderflow.operations.audit import list_actions
from orderflow.operations.data import forget_user
from orderflow.resources import Resources


@pytest.fixture
def forget(resources: Resources):
    async def forget(user: str = PERSON["user"], **how: bool):
        return await forget_user(user, ADA, db=resources.db, queues=resources.queues, **how)

    return forget


async def test_nothing_that_is_kept_names_the_person(forget, resources, sql, redis) -> None:
    receipt = await live_an_order(resources, sql)
    prefix = resources.settings.queue_prefix
    assert found_of_person(await all_rows(sql)) == set(PERSON)
    assert found_of_person(all_keys(redis, prefix)) >= {"user", "email", "name", "street"}
    before = await all_rows(sql)
    would = await forget(dry_run=True)
    assert await all_rows(sql) == before

    forgotten = await forget()
    assert (forgotten.rows, forgotten.jobs) == (would.rows, would.jobs)
    assert forgotten.jobs >= 6
    assert set(forgotten.rows) == {
        *("orders", "payments", "refunds", "notifications", "event_messages", "order_events"),
        *("job_failures", "failure_groups", "idempotency_keys", "audit_log", "bulk_actions"),
        "webhook_attempts",
    }
    assert found_of_person(await all_rows(sql)) == set()
    assert found_of_person(all_keys(redis, prefix)) == set()

    row = await sql.fetchrow("SELECT * FROM orders JOIN payments p ON p.order_id = orders.id")
    assert (row["order_id"], row["total"], row["amount"]) == (
        receipt.order_id,
        receipt.total,
        receipt.total,
    )
    assert (row["user_id"], row["email"], row["forgotten_at"] is None) == (
        forgotten.pseudonym,
        None,
        False,
    )
    assert row["transaction_id"] is not None
    assert await sql.fetchval("SELECT count(*) FROM order_items") == 2

    [action] = await list_actions(db=resources.db, action="forget")
    assert (action.target, action.outcome) == (forgotten.pseudonym, "done")
    assert action.details["rows"]["orders"] == 1
    again = await forget()
    assert (again.pseudonym, again.rows, again.jobs) == (None, {}, 0)


async def test_others_keep_what_is_theirs(forget, resources, sql, place: PlaceOrder) -> None:
    await live_an_order(resources, sql)
    other = await place()
    await forget()
    row = await sql.fetchrow("SELECT * FROM orders WHERE id = $1", other.order_id)
    assert (row["user_id"], row["email"], row["forgotten_at"]) == (
        "user-1",
        "ada@shop.example",
        None,
    )
    [state] = await resources.queues.states(
        [payment_job(str(other.payment_id), str(other.order_id), "card", other.total)]
    )
    assert state is JobState.LIVE


async def test_who_is_still_to_be_told_is_not_forgotten(
    forget, resources, sql, place: PlaceOrder
) -> None:
    receipt = await place()
    for make in (None, charge):
        if make is not None:
            await make(resources, receipt)
        with pytest.raises(UserHasOpenOrders, match=str(receipt.order_id)):
            await forget("user-1", undelivered=True)
    await tell(resources, "order-confirmation", receipt)
    with pytest.raises(UserHasOpenOrders, match=r"Open orders \(1\) of .* \(confirmed\)"):
        await forget("user-1")
    assert await sql.fetchval("SELECT email FROM orders") == "ada@shop.example"
    forgotten = await forget("user-1", undelivered=True)
    assert forgotten.rows["orders"] == 1
    assert await sql.fetchval("SELECT email FROM orders") is None


async def test_a_job_that_runs_is_waited_for(
    forget, resources, sql, redis, place: PlaceOrder
) -> None:
    receipt = await place()
    await charge(resources, receipt)
    await tell(resources, "order-confirmation", receipt)
    key = f"{resources.settings.queue_prefix}:payment-processing"
    job_id = f"payment-{receipt.payment_id}"
    redis.zrem(f"{key}:prioritized", job_id)
    redis.lpush(f"{key}:active", job_id)
    redis.set(f"{key}:{job_id}:lock", "a worker", px=60_000)
    with pytest.raises(JobIsRunning, match=job_id):
        await forget("user-1", undelivered=True)
    assert await sql.fetchval("SELECT email FROM orders") == "ada@shop.example"


async def test_one_who_has_only_a_key_is_forgotten_too(forget, sql) -> None:
    assert (await forget("user-9")).pseudonym is None
    await sql.execute(
        "INSERT INTO idempotency_keys VALUES ('user-9', 'k', '', '{}', now() + interval '1 day')"
    )
    assert (await forget("user-9")).rows == {"idempotency_keys": 1}
    assert (await forget("user-9")).pseudonym is None


async def test_the_audit_log_loses_texts_and_nothing_else(resources, sql) -> None:
    await live_an_order(resources, sql)
    for statement in (
        "UPDATE audit_log SET reason = ''",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log CASCADE",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await sql.execute(statement)
    async with sql.transaction():
        await sql.execute("SELECT set_config('orderflow.forgetting', 'on', true)")
        for statement in (
            "UPDATE audit_log SET actor = 'eve'",
            "UPDATE audit_log SET outcome = 'refused' WHERE outcome = 'done'",
            "DELETE FROM audit_log",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                async with sql.transaction():
                    await sql.execute(statement)
        await sql.execute("UPDATE audit_log SET reason = '***'")
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.execute("UPDATE audit_log SET reason = ''")


async def test_an_order_of_a_forgotten_person_can_still_be_told(forget, resources, sql) -> None:
    receipt = await live_an_order(resources, sql)
    await forget()
    told = await tell(resources, "order-confirmation", receipt)
    assert told == {"success": True, "sent": []}


async def test_the_command_says_what_is_forgotten_and_asks(resources, sql, settings, tmp_path):
    async def command(*args: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            run_command,
            *("forget", PERSON["user"], *args),
            folder=tmp_path,
            environment=process_environment(settings),
        )

    receipt = await live_an_order(resources, sql)
    await sql.execute("UPDATE orders SET status = 'shipped'")
    refused = await command("--yes")
    assert (refused.returncode, f"{receipt.order_id} (shipped)" in refused.stderr) == (1, True)
    await sql.execute("UPDATE orders SET status = 'delivered'")
    assert "would lose the person" in (await command("--dry-run")).stdout
    asked = await command()
    assert (asked.returncode, "say --yes" in asked.stderr) == (2, True)
    assert found_of_person(await all_rows(sql)) == set(PERSON)
    done = await command("--yes", "--json", "--reason", f"{PERSON['name']} wrote")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["orders"] == 1
    assert found_of_person(await all_rows(sql)) == set()
    assert (await command()).stdout == "nothing is kept of this user\n"
