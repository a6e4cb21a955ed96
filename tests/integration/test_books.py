"""The gateway's books beside ours: each way to differ is made by hand, and found."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID, uuid4

import httpx
import pytest
from tests.conftest import process_environment, start_program, wait_until
from tests.integration.cli import run_command
from tests.integration.life import charge, give_back, given_back, order_of

from orderflow import books
from orderflow.cancel import cancel_order
from orderflow.charge import expire_payment
from orderflow.contract import PaymentMethod
from orderflow.errors import GatewayUnavailable
from orderflow.exporter.orders import OrderMetrics
from orderflow.gateways import Charge, EntryKind, Page
from orderflow.refund import refunds_of, request_refund
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.testing import perform_job


class OwnBooks:
    """The gateway, whose books tell of this test's payments alone: all tests share one."""

    def __init__(self, gateway, since: datetime) -> None:
        self._gateway = gateway
        self._since = since
        self.hidden: set[str] = set()

    def __getattr__(self, name):
        return getattr(self._gateway, name)

    async def entries(self, kind, since, until, after=None):
        page = await self._gateway.entries(kind, max(since, self._since), until, after)
        return Page([e for e in page.entries if e.id not in self.hidden], page.after)

    async def find(self, charge):
        found = await self._gateway.find(charge)
        return None if getattr(found, "transaction_id", None) in self.hidden else found

    async def find_refund(self, refund):
        found = await self._gateway.find_refund(refund)
        return None if getattr(found, "refund_id", None) in self.hidden else found


@pytest.fixture
def gateway(resources):
    return OwnBooks(resources.gateway, datetime.now(UTC) - timedelta(milliseconds=1))


@pytest.fixture
def compare(resources, gateway, monkeypatch):
    """Compare all that was made in this test."""
    monkeypatch.setattr("orderflow.books.sides.GRACE", timedelta())

    async def compare():
        now = datetime.now(UTC)
        since, until = now - timedelta(hours=2, minutes=30), now + timedelta(seconds=1)
        found = await books.compare_books(since, until, db=resources.db, gateway=gateway)
        return [(d.entry.value, d.kind.value, d.settled) for d in found.differences]

    return compare


async def refund(resources, receipt, amount="1.00"):
    asked = await request_refund(
        str(receipt.order_id), Decimal(amount), "a", db=resources.db, queues=resources.queues
    )
    await give_back(resources, receipt, asked.refund_id)
    return asked.refund_id


async def open_kinds(resources):
    found = await books.open_differences(db=resources.db)
    return [(difference.entry.value, difference.kind.value) for difference in found]


async def test_books_that_agree_differ_in_nothing(resources, paid, compare):
    await paid()
    await refund(resources, await paid())
    assert await compare() == []


async def test_an_outcome_that_nobody_wrote_is_written(resources, place, compare):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)

    assert await compare() == [("charge", "unwritten", True)]
    assert (await order_of(resources, receipt)).status == "confirmed"
    assert await open_kinds(resources) == []
    assert await compare() == []


async def test_a_refund_whose_outcome_nobody_wrote_is_written(resources, paid, compare):
    receipt = await paid(paymentToken="tok_refund_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await refund(resources, receipt)

    assert await compare() == [("refund", "unwritten", True)]
    [known] = await refunds_of(receipt.order_id, db=resources.db)
    assert known.status == "completed"


async def test_a_charge_that_we_do_not_know_is_kept_until_it_is_gone(
    resources, gateway, compare, sql
):
    charge = Charge(str(uuid4()), Decimal("5.00"), "EUR", PaymentMethod.CARD, None)
    made = await resources.gateway.charge(charge)

    assert await compare() == [("charge", "unknown", False)]
    assert await compare() == [("charge", "unknown", False)]
    [kept] = await books.open_differences(db=resources.db)
    assert (kept.transaction_id, kept.theirs, kept.ours) == (
        made.transaction_id,
        Decimal("5.00"),
        None,
    )
    gateway.hidden.add(made.transaction_id)
    assert await compare() == []
    assert await open_kinds(resources) == []
    assert await sql.fetchval("SELECT count(*) FROM book_differences") == 1


async def test_a_refund_made_by_other_means_is_told(paid, gateway_server, compare):
    receipt = await paid()
    charged = gateway_server.charge(receipt.payment_id)
    async with httpx.AsyncClient(base_url=gateway_server.url, trust_env=False) as client:
        answer = await client.post(
            "/refunds",
            headers={"Idempotency-Key": "by-hand-" + charged["id"]},
            json={"chargeId": charged["id"], "amount": "2.00", "currency": "EUR"},
        )
    assert answer.status_code == 201
    assert await compare() == [("refund", "unknown", False)]


@pytest.mark.parametrize("what", ["charge", "refund"])
async def test_what_the_gateway_does_not_have_is_missing(
    resources, paid, gateway, compare, sql, what
):
    receipt = await paid()
    await refund(resources, receipt)
    query = {
        "charge": "SELECT transaction_id FROM payments",
        "refund": "SELECT gateway_id FROM refunds",
    }
    gateway.hidden.add(await sql.fetchval(query[what]))
    assert await compare() == [(what, "missing", False)]


async def test_another_amount_is_told(resources, paid, compare, sql):
    receipt = await paid()
    await refund(resources, receipt)
    await sql.execute("UPDATE payments SET amount = amount + 1")
    await sql.execute("UPDATE refunds SET amount = amount + 1")
    assert await compare() == [("charge", "amount", False), ("refund", "amount", False)]


async def test_a_second_charge_is_recorded_and_left_to_a_person(resources, paid, compare, sql):
    receipt = await paid()
    await sql.execute("UPDATE payments SET transaction_id = 'ch_of_another_key'")
    found = await compare()
    assert ("charge", "second", False) in found
    assert await sql.fetchval("SELECT count(*) FROM stray_charges") == 1
    assert await books.refund_strays(db=resources.db, queues=resources.queues) == 0
    assert await refunds_of(receipt.order_id, db=resources.db) == []


async def test_a_stray_charge_of_an_expired_order_is_given_back_when_it_is_asked_for(
    resources, place, compare, gateway_server, sql
):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)
    await sql.execute("UPDATE payments SET updated_at = now() - interval '1 hour'")
    assert await expire_payment(receipt.payment_id, 60, resources.db)

    assert await compare() == [("charge", "unwanted", False)]
    assert await refunds_of(receipt.order_id, db=resources.db) == []
    for begun in (1, 0):
        refunds = await books.refund_strays(db=resources.db, queues=resources.queues)
        assert refunds == begun
    [asked] = await refunds_of(receipt.order_id, db=resources.db)
    await give_back(resources, receipt, asked.refund_id)

    charged = gateway_server.charge(receipt.payment_id)
    assert given_back(gateway_server, charged["id"]) == receipt.total
    assert await compare() == []
    assert await open_kinds(resources) == []


async def test_a_cancel_that_gave_back_leaves_no_difference(resources, place, compare):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)
    await cancel_order(str(receipt.order_id), db=resources.db, queues=resources.queues)
    [asked] = await refunds_of(receipt.order_id, db=resources.db)
    await give_back(resources, receipt, asked.refund_id)
    assert await compare() == []


async def test_what_is_young_may_be_on_its_way(resources, place, gateway):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, receipt)
    now = datetime.now(UTC)
    found = await books.compare_books(
        now - timedelta(hours=1), now + timedelta(seconds=1), db=resources.db, gateway=gateway
    )
    assert (found.charges, found.differences) == (1, [])
    assert (await order_of(resources, receipt)).status == "processing"


async def test_a_gateway_that_is_away_is_an_attempt(gateway, compare):
    async def away(*_args):
        raise GatewayUnavailable(reason="HTTP 503")

    gateway.entries = away
    with pytest.raises(GatewayUnavailable):
        await compare()


async def test_the_job_of_the_order_worker_compares(resources):
    counts = await perform_job("order", "compare-books", {}, resources)
    assert set(counts) == {"charges", "refunds", "differences", "repaired"}


async def test_open_differences_are_a_metric(resources, compare, settings):
    charge = Charge(str(uuid4()), Decimal("5.00"), "EUR", PaymentMethod.CARD, None)
    await resources.gateway.charge(charge)
    await compare()
    metrics = await OrderMetrics(resources.db, settings).collect()
    [metric] = [metric for metric in metrics if metric.name == "orderflow_book_differences"]
    values = {tuple(sample.labels.values()): sample.value for sample in metric.samples}
    assert values["charge", "unknown"] == 1
    assert values["refund", "missing"] == 0


async def test_entries_are_told_by_pages(resources):
    since = datetime.now(UTC)
    for n in range(3):
        charge = Charge(f"page-{uuid4()}", Decimal(n + 1), "EUR", PaymentMethod.CARD, None)
        await resources.gateway.charge(charge)
    page = await resources.gateway.entries(
        EntryKind.CHARGE, since, datetime.now(UTC) + timedelta(seconds=1)
    )
    assert [entry.amount for entry in page.entries] == [1, 2, 3]
    assert page.after is None


@pytest.fixture
def own_gateway(tmp_path):
    """The address of a gateway that no other test charges at."""
    port = free_port()
    options = ("--port", str(port), "--ledger", str(tmp_path / "ledger.sqlite3"))
    program = start_program(tmp_path / "gateway.log", "orderflow.sandbox.gateway", *options)
    wait_until(lambda: port_is_taken(port), "the gateway of this test")
    yield f"http://127.0.0.1:{port}"
    assert program.stop() == 0


async def test_the_command_prints_csv_and_ends_with_1_where_something_differs(
    resources, compare, settings, tmp_path, own_gateway
):
    charge = Charge(str(uuid4()), Decimal("5.00"), "EUR", PaymentMethod.CARD, None)
    made = await resources.gateway.charge(charge)
    await compare()
    command = partial(
        run_command,
        "books",
        folder=tmp_path,
        environment=process_environment(settings) | {"GATEWAY_URL": own_gateway},
    )
    done = await asyncio.to_thread(command)
    assert done.returncode == 1, done.stderr
    first, _, line = done.stdout.splitlines()
    assert first == "0 charges and 0 refunds compared, 0 outcomes written, 1 differences"
    assert made.transaction_id in line

    done = await asyncio.to_thread(command, "--csv")
    assert done.returncode == 1, done.stderr
    [row] = csv.DictReader(io.StringIO(done.stdout))
    assert (row["kind"], row["transaction_id"]) == ("unknown", made.transaction_id)
    assert UUID(row["key"])
