"""Payment jobs whose order PostgreSQL does not have, as after a restore of an old backup."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.conftest import process_environment
from tests.integration.cli import run_command
from tests.integration.conftest import PlaceOrder
from tests.integration.life import charge
from tests.integration.working import ADA, add

from orderflow.bull.states import JobState
from orderflow.contract import QueueName, payment_job
from orderflow.operations.audit import list_actions
from orderflow.operations.orphans import find_orphans, remove_orphans
from orderflow.resources import Resources


async def lose(sql, receipt) -> None:
    """Let PostgreSQL be as it was before the order."""
    await sql.execute("DELETE FROM payments WHERE order_id = $1", receipt.order_id)
    await sql.execute("DELETE FROM orders WHERE id = $1", receipt.order_id)


def job_of(receipt):
    return payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)


async def test_jobs_without_their_orders_are_found_and_removed(
    resources: Resources, sql, place: PlaceOrder
) -> None:
    known, lost = await place(), await place()
    await lose(sql, lost)
    await add(resources, QueueName.PAYMENTS, "no-payment", {"orderId": "o-1"})
    later = {
        "paymentId": 7,
        "orderId": "o-7",
        "paymentData": {"method": "card", "amount": "5.00"},
    }
    await add(resources, QueueName.PAYMENTS, "of-a-producer", later, delay=60_000)

    both = {"db": resources.db, "queues": resources.queues}
    found = await find_orphans(**both)
    assert [(orphan.order_id, orphan.state) for orphan in found] == [
        (str(lost.order_id), "waiting"),
        ("o-7", "delayed"),
    ]
    assert (found[0].payment_id, found[0].amount) == (str(lost.payment_id), lost.total)
    assert await remove_orphans(found[:1], ADA, **both) == 1
    assert await remove_orphans(found[:1], ADA, **both) == 0
    states = await resources.queues.states([job_of(known), job_of(lost)])
    assert states == [JobState.LIVE, JobState.MISSING]
    assert len(await find_orphans(**both)) == 1
    [_, first] = await list_actions(db=resources.db, action="remove orphans")
    assert first.details == {"jobs": 1}


async def test_the_command_lists_them_for_a_spreadsheet_and_removes_them(
    resources: Resources, sql, place: PlaceOrder, settings, tmp_path
) -> None:
    lost = await place()

    async def orphans(*args: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            run_command,
            *("orphans", *args),
            folder=tmp_path,
            environment=process_environment(settings),
        )

    none = await orphans()
    assert (none.returncode, none.stdout) == (0, "every payment job has its order\n")
    await lose(sql, lost)
    listed = await orphans("--csv")
    [row] = csv.DictReader(io.StringIO(listed.stdout))
    assert listed.returncode == 1
    assert (row["order_id"], row["amount"]) == (str(lost.order_id), f"{lost.total:.2f}")
    assert "say --yes" in (await orphans("--remove")).stderr
    removed = await orphans("--remove", "--yes", "--json")
    assert (removed.returncode, len(json.loads(removed.stdout))) == (0, 1)
    assert (await orphans()).returncode == 0
    [state] = await resources.queues.states([job_of(lost)])
    assert state is JobState.MISSING


class Watched:
    """The gateway, and what it was asked."""

    def __init__(self, gateway) -> None:
        self._gateway = gateway
        self.asked: list[str] = []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self._gateway, name)


@pytest.mark.parametrize(("waited", "asked"), [(1, ["charge"]), (13, ["find", "charge"])])
async def test_a_payment_that_waited_for_long_is_asked_about_before_it_is_charged(
    resources: Resources, sql, place: PlaceOrder, waited, asked
) -> None:
    receipt = await place()
    await sql.execute(
        "UPDATE payments SET created_at = now() - $1::interval", timedelta(hours=waited)
    )
    gateway = Watched(resources.gateway)
    assert (await charge(replace(resources, gateway=gateway), receipt))["success"]
    assert gateway.asked == asked
