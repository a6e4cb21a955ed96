"""The recording outside world: what it answered is written down, whatever dies after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.integration.conftest import checkout_body

from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.contract import JobName, PaymentMethod
from orderflow.gateways import Charge
from orderflow.resources import Resources
from orderflow.sandbox.recording import (
    CHARGE_FILES,
    CHARGE_LINE_BYTES,
    SENT_FILES,
    SENT_LINE_BYTES,
    RecordFile,
    open_recording_resources,
)
from orderflow.senders import Message
from orderflow.settings import Settings

Start = Callable[..., Program]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
async def recording(settings: Settings, folder: Path):
    async with open_recording_resources(settings, folder) as opened:
        yield opened


@pytest.fixture
def start(settings: Settings, folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a recording worker, and kill it at the end if it still runs."""
    programs: list[Program] = []

    def start(name: str, *options: str) -> Program:
        program = start_program(
            tmp_path / f"{name}-{len(programs)}.log",
            *("orderflow.sandbox.recording", name, "--folder", str(folder), *options),
            environment=process_environment(settings),
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


def charge(key: str) -> Charge:
    return Charge(key, Decimal("9.50"), "EUR", PaymentMethod.CARD, "tok_approve")


def only_file(folder: Path, pattern: str) -> Path:
    [file] = folder.glob(pattern)
    return file


def lines(folder: Path, pattern: str) -> list[str]:
    return [line for file in folder.glob(pattern) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("before", [0, 1_048_576 // CHARGE_LINE_BYTES, 60_000])
async def test_a_charge_is_found_wherever_its_line_lies(recording, folder, before: int):
    """Files are read in pieces of a mebibyte, and a line may lie across two of them."""
    others = "".join(f"{number:036}\n" for number in range(before))
    (folder / "charges-1.log").write_text(others)
    key = str(uuid4())
    assert await recording.gateway.find(charge(key)) is None
    with (folder / "charges-1.log").open("a") as file:
        file.write(f"{key}\n")
    assert await recording.gateway.find(charge(key)) is not None
    assert await recording.gateway.find(charge(key[1:])) is None


async def buy(resources: Resources) -> Receipt:
    checkout = Checkout.model_validate(checkout_body())
    return await place_order(checkout, "ada", None, db=resources.db, queues=resources.queues)


async def test_a_charge_is_a_line_before_it_is_answered(recording: Resources, folder: Path):
    key = str(uuid4())
    assert await recording.gateway.find(charge(key)) is None
    approved = await recording.gateway.charge(charge(key))
    file = only_file(folder, CHARGE_FILES)
    assert file.stat().st_size == CHARGE_LINE_BYTES
    assert file.read_text() == f"{key}\n"
    assert await recording.gateway.find(charge(key)) == approved


async def test_a_second_charge_with_a_key_is_seen(recording: Resources, folder: Path):
    key = str(uuid4())
    for _ in range(2):
        await recording.gateway.charge(charge(key))
    assert lines(folder, CHARGE_FILES) == [key, key]


async def test_charges_of_other_processes_are_found(recording: Resources, folder: Path):
    first, second = str(uuid4()), str(uuid4())
    others = RecordFile(folder / "charges-1.log")
    others.add(first)
    others.add(second)
    others.close()
    assert await recording.gateway.find(charge(first)) is not None
    assert await recording.gateway.find(charge(second)) is not None


@pytest.mark.parametrize("asked", ["order-1", "rder-12", "1", "order-123"])
async def test_a_part_of_a_key_is_another_key(recording: Resources, asked: str):
    await recording.gateway.charge(charge("order-12"))
    assert await recording.gateway.find(charge(asked)) is None


async def test_a_mail_is_a_line_of_fixed_length(recording: Resources, folder: Path):
    order_id = str(uuid4())
    before_ms = time.time_ns() // 1_000_000
    [sender] = recording.senders
    for kind in (JobName.ORDER_CONFIRMATION, JobName.PAYMENT_FAILED):
        message = Message("ada@shop.example", "Hello", "Hello", reference=f"{kind}.{order_id}")
        assert await sender.send(message) == message.reference
    file = only_file(folder, SENT_FILES)
    assert file.stat().st_size == 2 * SENT_LINE_BYTES
    sent = [line.split() for line in file.read_text().splitlines()]
    assert [(order, kind) for order, _, kind in sent] == [
        (order_id, "order-confirmation"),
        (order_id, "payment-failed"),
    ]
    assert all(before_ms <= int(at) <= time.time_ns() // 1_000_000 for _, at, _ in sent)


async def test_workers_record_an_order_and_a_kill_loses_nothing(
    start: Start, resources: Resources, folder: Path
):
    receipt = await buy(resources)
    payment, notification = start("payment"), start("notification")
    wait_until(lambda: len(lines(folder, SENT_FILES)) == 1, "the mail", 60)
    for program in (payment, notification):
        program.process.kill()
        program.process.wait()
    assert lines(folder, CHARGE_FILES) == [str(receipt.payment_id)]
    [sent] = lines(folder, SENT_FILES)
    assert sent.split()[0] == str(receipt.order_id)


async def test_many_processes_write_files_of_their_own(
    start: Start, resources: Resources, folder: Path
):
    program = start("payment", "--processes", "2", "--concurrency", "3")
    wait_until(lambda: len(list(folder.glob(CHARGE_FILES))) == 2, "the files of two", 60)
    receipts = [await buy(resources) for _ in range(20)]
    wait_until(lambda: len(lines(folder, CHARGE_FILES)) == 20, "the charges", 60)
    assert set(lines(folder, CHARGE_FILES)) == {str(receipt.payment_id) for receipt in receipts}
    children = psutil.Process(program.process.pid).children(recursive=True)
    assert program.stop() == 0
    assert not [child for child in children if child.is_running()]


def test_a_worker_that_is_not_shipped_is_refused(start: Start):
    program = start("parcel")
    assert program.process.wait(60) == 2
    assert "parcel" in program.log.read_text()
