"""The verdict of a rehearsal: whatever was done twice, or not, or without reason is named."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from orderflow.checkout import IdempotencyKey, Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.contract import order_confirmation_job, payment_job
from orderflow.products import load_products
from orderflow.resources import Resources
from orderflow.sandbox.recording import CHARGE_FILES, SENT_FILES, open_recording_resources
from orderflow.sandbox.rehearsal.customers import Customers, products
from orderflow.sandbox.rehearsal.verdict import Check, count_orders
from orderflow.settings import Settings
from orderflow.testing import perform_job

ORDERS = 3


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
async def recording(settings: Settings, records: Path):
    async with open_recording_resources(settings, records) as opened:
        await load_products(products(), opened.db)
        yield opened


@pytest.fixture(scope="module")
def customers() -> Customers:
    return Customers()


async def carry(order: tuple[Checkout, str, IdempotencyKey], resources: Resources) -> Receipt:
    """Carry an order to its end, over the path of the workers."""
    checkout, user_id, key = order
    receipt = await place_order(checkout, user_id, key, db=resources.db, queues=resources.queues)
    order_id, payment_id = str(receipt.order_id), str(receipt.payment_id)
    for worker, job in (
        ("payment", payment_job(payment_id, order_id, checkout.payment_method, receipt.total)),
        ("notification", order_confirmation_job(order_id, user_id)),
    ):
        await perform_job(worker, job.name.value, job.data, resources)
    return receipt


@pytest.fixture
async def carried(recording: Resources, customers: Customers) -> list[Receipt]:
    # The first of them buys a counted product, so that stock is compared.
    return [await carry(customers.order(number), recording) for number in range(ORDERS)]


class Counter:
    """Counts the test's orders, and says what does not hold."""

    def __init__(self, database_url: str, records: Path) -> None:
        self._database_url = database_url
        self._records = records

    async def checks(self, orders: int = ORDERS) -> list[Check]:
        return await count_orders(self._database_url, self._records, orders)

    async def wrong(self, orders: int = ORDERS) -> list[str]:
        checks = await self.checks(orders)
        return [f"{check.name}: {check.message}" for check in checks if not check.ok]

    def file(self, pattern: str) -> Path:
        [file] = self._records.glob(pattern)
        return file

    def add(self, pattern: str, line: str) -> None:
        with self.file(pattern).open("a") as file:
            file.write(line + "\n")

    def remove(self, pattern: str, line_with: object) -> None:
        file = self.file(pattern)
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if str(line_with) not in line))


@pytest.fixture
def counter(carried: list[Receipt], database_url: str, records: Path) -> Counter:  # noqa: ARG001
    return Counter(database_url, records)


async def test_all_is_well(counter: Counter):
    checks = await counter.checks()
    assert [check for check in checks if not check.ok] == []
    assert {check.name for check in checks} == {
        "orders",
        "payments",
        "charges",
        "mails",
        "notifications",
        "stock",
    }


async def test_a_doubled_charge(counter: Counter, carried: list[Receipt]):
    counter.add(CHARGE_FILES, str(carried[1].payment_id))
    assert await counter.wrong() == [
        "charges: 4 of 3, for 3 different payments",
        f"charges: 1 charged twice: {carried[1].payment_id}",
    ]


async def test_an_extra_charge(counter: Counter):
    stranger = uuid4()
    counter.add(CHARGE_FILES, str(stranger))
    assert await counter.wrong() == [
        "charges: 4 of 3, for 4 different payments",
        f"charges: 1 charged without a confirmed order: {stranger}",
    ]


async def test_a_lost_charge_and_a_doubled_one_do_not_make_up_for_each_other(
    counter: Counter, carried: list[Receipt]
):
    counter.remove(CHARGE_FILES, carried[0].payment_id)
    counter.add(CHARGE_FILES, str(carried[2].payment_id))
    assert await counter.wrong() == [
        "charges: 3 of 3, for 2 different payments",
        f"charges: 1 charged twice: {carried[2].payment_id}",
        f"charges: 1 confirmed and never charged: {carried[0].payment_id}",
    ]


async def test_a_lost_mail(counter: Counter, carried: list[Receipt]):
    counter.remove(SENT_FILES, carried[2].order_id)
    assert await counter.wrong() == [
        "mails: 2 of 3, for 2 different orders",
        f"mails: 1 confirmed and never told: {carried[2].order_id}",
        f"notifications: 1 recorded otherwise than as one mail: {carried[2].order_id}",
    ]


async def test_a_doubled_mail(counter: Counter, carried: list[Receipt]):
    counter.add(SENT_FILES, f"{carried[0].order_id}\t1764000000000\torder-confirmation")
    assert await counter.wrong() == [
        "mails: 4 of 3, for 3 different orders",
        f"mails: 1 told twice: {carried[0].order_id}",
    ]


async def test_a_mail_about_nothing(counter: Counter):
    stranger = uuid4()
    counter.add(SENT_FILES, f"{stranger}\t1764000000000\torder-confirmation")
    assert await counter.wrong() == [
        "mails: 4 of 3, for 4 different orders",
        f"mails: 1 told of what is not so: {stranger}",
        f"notifications: 1 recorded otherwise than as one mail: {stranger}",
    ]


async def test_a_mail_of_the_wrong_kind(counter: Counter, carried: list[Receipt]):
    order_id = carried[0].order_id
    counter.remove(SENT_FILES, order_id)
    counter.add(SENT_FILES, f"{order_id}\t1764000000000\tpayment-failed    ")
    assert await counter.wrong() == [
        f"mails: 1 confirmed and never told: {order_id}",
        f"mails: 1 told of what is not so: {order_id}",
        f"notifications: 1 recorded otherwise than as one mail: {order_id}",
    ]


async def test_an_order_that_is_missing(counter: Counter):
    assert await counter.wrong(ORDERS + 1) == [
        "orders: 3 of 4: 3 confirmed",
        "charges: 3 of 4, for 3 different payments",
        "mails: 3 of 4, for 3 different orders",
        "notifications: 3 of 4, for 3 different orders",
    ]


async def test_an_order_that_goes_on(counter: Counter, recording: Resources, customers: Customers):
    checkout, user_id, key = customers.order(ORDERS)
    receipt = await place_order(checkout, user_id, key, db=recording.db, queues=recording.queues)
    assert await counter.wrong(ORDERS + 1) == [
        "charges: 3 of 4, for 3 different payments",
        "mails: 3 of 4, for 3 different orders",
        "notifications: 3 of 4, for 3 different orders",
        f"orders: 1 ended otherwise than confirmed: {receipt.order_id}",
        f"orders: 1 left open: their customer counts as not told: {receipt.order_id}",
        f"payments: 1 left without an outcome: {receipt.payment_id}",
    ]


async def test_a_row_about_a_mail_that_is_lost(
    counter: Counter, carried: list[Receipt], sql: asyncpg.Connection[asyncpg.Record]
):
    await sql.execute("DELETE FROM notifications WHERE order_id = $1", carried[0].order_id)
    assert await counter.wrong() == [
        "notifications: 2 of 3, for 2 different orders",
        f"notifications: 1 recorded otherwise than as one mail: {carried[0].order_id}",
    ]


async def test_stock_that_nobody_bought(counter: Counter, sql: asyncpg.Connection[asyncpg.Record]):
    await sql.execute("UPDATE products SET stock = stock - 1 WHERE sku = 'product-0005'")
    assert await counter.wrong() == ["stock: 1 on the shelf otherwise than as sold: product-0005"]


async def test_many_faults_are_counted_and_some_are_named(counter: Counter, carried: list[Receipt]):
    for _ in range(5):
        counter.add(CHARGE_FILES, str(uuid4()))
    [_, wrong] = await counter.wrong()
    assert wrong.startswith("charges: 5 charged without a confirmed order: ")
    assert wrong.endswith(", …")
    assert wrong.count("-") == 3 * 4
    assert not any(str(receipt.payment_id) in wrong for receipt in carried)


async def test_a_record_that_cannot_be_read(counter: Counter):
    counter.add(CHARGE_FILES, "not a charge")
    wrong = await counter.wrong()
    assert any(line.startswith(f"records: {counter.file(CHARGE_FILES).name}: ") for line in wrong)
