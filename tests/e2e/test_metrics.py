"""docs/metrics.md and what a running shop tells are the same, in both directions."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.conftest import process_environment, start_program, wait_until
from tests.e2e.conftest import ShopProcesses
from tests.scraping import Scrape, families

from orderflow.bull.queues import open_queues
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
#: A row of a table: a name, * where its buckets name traces, a type, and labels.
ROW = re.compile(r"\| `(\w+)`(?: \*)? \| (counter|gauge|histogram) \|([\w, ]*)\|")
#: What every process has, whoever serves it.
PROGRAMS = ("api", "payment", "notification", "order")


class Told(NamedTuple):
    """What is told of a metric beside its value."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Told]:
    rows: dict[str, Told] = {}
    for name, kind, labels in ROW.findall(DOCS.read_text()):
        told = Told(kind, frozenset(filter(None, labels.replace(" ", "").split(","))))
        assert rows.setdefault(name, told) == told, f"{name} is documented in two ways"
    return rows


@pytest.fixture
def ports(closed_shop: ShopProcesses, settings: Settings) -> Iterator[dict[str, int]]:
    """The metrics' port of each program of a shop that is open."""
    ports = {name: free_port() for name in (*PROGRAMS, "exporter")}
    # It is no replica, and so not read at; but what there is to tell of one is told.
    replica = {"DATABASE_REPLICA_URL": settings.database_dsn}
    environment = process_environment(settings) | {"EXPORTER_PORT": str(ports["exporter"])}
    exporter = start_program(
        closed_shop.folder / "exporter.log", "orderflow.exporter", environment=environment | replica
    )
    for name in PROGRAMS:
        closed_shop.start(name, METRICS_PORT=str(ports[name]), **replica)
    wait_until(lambda: port_is_taken(ports["exporter"]), "the exporter")
    yield ports
    assert exporter.stop() == 0


def seen(ports: dict[str, int]) -> dict[str, set[Told]]:
    """Return what is told of each metric by all programs, with the labels of its series."""
    found: dict[str, set[Told]] = {}
    for port in ports.values():
        for name, family in families(port).items():
            for sample in family.samples:
                # `process` is of all that a process tells, and `le` of all buckets.
                labels = frozenset(sample.labels) - {"process", "le"}
                found.setdefault(name, set()).add(Told(family.type, labels))
    return found


async def add_jobs(settings: Settings) -> None:
    """Add a job that nobody knows, and one that comes once a day by itself."""
    async with open_queues(settings) as queues:
        await queues.queue("payment-processing").add("no such job", {}, {"attempts": 1})
        await queues.queue("order-processing").add("compare-books", {}, {"attempts": 1})


def use(shop: ShopProcesses, settings: Settings) -> list[dict[str, Any]]:
    """Let all happen that is counted only once it has, and return the orders of it."""
    asyncio.run(add_jobs(settings))
    paid = shop.checkout(contact={"email": "ada@shop.example", "phone": "+4915112345678"})
    declined = shop.checkout(paymentToken="tok_decline")
    late = shop.checkout(paymentToken="tok_503_twice")
    for receipt, status in ((paid, "confirmed"), (declined, "cancelled"), (late, "confirmed")):
        shop.wait_for(receipt["orderId"], status)
    with shop.client() as client:
        client.post(f"/orders/{late['orderId']}/cancel").raise_for_status()
    with socket.create_connection(("127.0.0.1", shop.port)) as connection:
        connection.sendall(b"no HTTP at all\r\n\r\n")
        assert connection.recv(1_000).startswith(b"HTTP/1.1 400")
    return [paid, declined, late]


def test_every_metric_is_documented_and_every_documented_one_is_told(closed_shop, ports, settings):
    orders = use(closed_shop, settings)
    told = documented()

    def missing() -> list[str]:
        return sorted(told.keys() - seen(ports).keys())

    with suppress(AssertionError):
        wait_until(lambda: not missing(), "all metrics")
    assert missing() == []
    found = seen(ports)
    assert sorted(found.keys() - told.keys()) == []
    assert {name: kinds for name, kinds in found.items() if kinds != {told[name]}} == {}

    for port in ports.values():
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        secrets = [receipt[name] for receipt in orders for name in ("orderId", "paymentId")]
        for secret in ("ada@", "4915112345678", "user-1", *secrets):
            assert secret not in text


def test_an_order_is_followed_from_the_checkout_to_the_mail(closed_shop, ports):
    receipt = closed_shop.checkout()
    closed_shop.wait_for(receipt["orderId"], "confirmed")
    total = float(receipt["total"])
    assert Scrape(ports["api"]).sum("orderflow_orders_total", outcome="placed") == 1
    payment = Scrape(ports["payment"])
    assert payment.sum("orderflow_payments_total", outcome="paid", method="card") == 1
    assert payment.sum("orderflow_orders_total", outcome="confirmed") == 1
    assert payment.sum("orderflow_money_total", kind="charged", currency="EUR") == total
    assert payment.sum("orderflow_gateway_seconds_count", call="charge", outcome="approved") == 1

    def told() -> float:
        labels = {"outcome": "confirmed"}
        return Scrape(ports["notification"]).sum("orderflow_order_seconds_count", **labels)

    wait_until(lambda: told() == 1, "the customer to be told")
    mails = Scrape(ports["notification"])
    assert mails.sum("orderflow_sender_seconds_count", channel="email", outcome="sent") == 1

    def completed(queue: str) -> float:
        return Scrape(ports["exporter"]).sum("bullmq_job_completed_total", queue=queue)

    wait_until(lambda: completed("notifications") == 1, "the job's end")
    assert completed("payment-processing") == 1

    def runs() -> float:
        return Scrape(ports["order"]).sum("orderflow_reconciler_runs_total", outcome="done")

    wait_until(lambda: runs() >= 1, "a run of the reconciler")
    assert Scrape(ports["order"]).sum("orderflow_reconciler_last_run_timestamp_seconds") > 0
