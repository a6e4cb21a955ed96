"""The guide docs/moving-from-node.md, step by step, with real Node on the other side."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.conftest import CATALOGUE, SECRET, start_program, wait_until
from tests.integration.cli import run_command
from tests.integration.reconciling import run, run_over_rested
from tests.interop.bridge import Node
from tests.interop.conftest import NODE_OPTIONS, Keys, foreign_data

from orderflow.reconcile import Counts
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

PAYMENTS, NOTIFICATIONS, ORDERS = "payment-processing", "notifications", "order-processing"
Doctor = Callable[[str], str]


@pytest.fixture
def doctor(settings: Settings) -> Doctor:
    """Ask `orderflow doctor` who works on a queue."""

    def ask(queue: str) -> str:
        environment = {
            "REDIS_URL": settings.redis_dsn,
            "DATABASE_URL": settings.database_dsn,
            "QUEUE_PREFIX": settings.queue_prefix,
        }
        done = run_command("doctor", "--json", environment=environment)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        told = [finding["message"] for finding in json.loads(done.stdout)["findings"]]
        [message] = [m for m in told if m.startswith((f"{queue}: no worker", f"{queue}: 1 of"))]
        return message.removeprefix(f"{queue}: ")

    return ask


def add_payments(node: Node, count: int, sleep_ms: int = 0) -> list[dict[str, Any]]:
    """Let a Node producer add payments of orders that only it knows; return their data."""
    data = [foreign_data(sleepMs=sleep_ms) for _ in range(count)]
    jobs = [{"name": "process-payment", "data": d, "opts": NODE_OPTIONS} for d in data]
    node.ask(
        "addBulk", queue=PAYMENTS, jobs=[j | {"opts": j["opts"] | {"priority": 1}} for j in jobs]
    )
    return data


def assert_each_was_done_once(queue: Keys, count: int) -> list[dict[str, str]]:
    """Wait until `count` jobs are done, and see that it took one attempt each; return the jobs."""
    queue.wait_for("completed", count, 60)
    jobs = [queue.hash(job_id) for job_id in queue.ids("completed")]
    assert Counter((job["ats"], job["atm"]) for job in jobs) == {("1", "1"): count}
    assert len(queue.events("completed")) == count
    assert queue.count("failed") == queue.count("active") == 0
    return jobs


def by_node(jobs: list[dict[str, str]]) -> list[dict[str, str]]:
    return [job for job in jobs if json.loads(job["returnvalue"]) == {"by": "node"}]


async def test_workers_first(
    node, start_worker, keys, place, sql, gateway_server, mail_server, doctor
):
    payments, notifications = keys(PAYMENTS), keys(NOTIFICATIONS)
    # Node alone.
    node.ask("startWorker", queue=PAYMENTS, opts={"concurrency": 5})
    node.ask("startWorker", queue=NOTIFICATIONS, opts={"concurrency": 5})
    add_payments(node, 20)
    assert len(by_node(assert_each_was_done_once(payments, 20))) == 20
    assert doctor(PAYMENTS) == "1 of Node"

    # 1. Our payment worker beside Node's.
    ours = start_worker("payment", "--concurrency", "10")
    wait_until(lambda: doctor(PAYMENTS) == "1 of Node, 1 of orderflow", "both workers")
    data = add_payments(node, 200, sleep_ms=20)
    shared = by_node(assert_each_was_done_once(payments, 220))
    assert 20 < len(shared) < 220, "one of them did nothing"
    charged = [d for d in data if gateway_server.charge(d["paymentId"])]
    assert len(charged) == 220 - len(shared)

    # 2. Node's payment worker stopped; its notification worker gets what ours adds.
    node.ask("stopWorker", queue=PAYMENTS)
    wait_until(lambda: doctor(PAYMENTS) == "1 of orderflow", "ours alone")
    more = add_payments(node, 20)
    assert len(by_node(assert_each_was_done_once(payments, 240))) == len(shared)
    assert all(gateway_server.charge(d["paymentId"]) for d in more)
    assert_each_was_done_once(notifications, len(charged) + 20)
    told = {ran["data"]["orderId"] for ran in node.ask("ran", queue=NOTIFICATIONS)}
    assert told == {str(d["orderId"]) for d in charged + more}

    # 3. and 4. Checkout is ours, and after what Node added is done, notifications are.
    node.ask("stopWorker", queue=NOTIFICATIONS)
    start_worker("notification", "--concurrency", "20")
    assert doctor(NOTIFICATIONS) == "1 of orderflow"
    receipts = [await place() for _ in range(5)]
    assert_each_was_done_once(payments, 245)
    assert_each_was_done_once(notifications, len(told) + 5)
    for receipt in receipts:
        assert len(mail_server.mails(receipt.order_id)) == 1

    # 5. The order worker: adopted orders are marked as told, and nobody is mailed again.
    assert await unsettled(sql) == len(told)
    start_worker("order", RECONCILE_INTERVAL_MS="300", RECONCILE_GRACE_MS="1")
    await wait_until_settled(sql)
    assert ours.process.poll() is None
    assert [len(mail_server.mails(receipt.order_id)) for receipt in receipts] == [1] * 5
    assert await sql.fetchval("SELECT count(*) FROM notifications") == 5
    assert payments.count("completed") == 245


async def unsettled(sql: Any) -> int:
    count: int = await sql.fetchval("SELECT count(*) FROM orders WHERE notified_at IS NULL")
    return count


async def wait_until_settled(sql: Any) -> None:
    async with asyncio.timeout(30):
        while await unsettled(sql):
            await asyncio.sleep(0.02)


def charge_as_node(gateway_url: str, receipt: Any) -> str:
    """Charge as Node's payment worker does: the payment id is the key. Return the charge's id."""
    answer = httpx.post(
        f"{gateway_url}/charges",
        headers={"Idempotency-Key": str(receipt.payment_id)},
        json={"amount": str(receipt.total), "currency": "EUR", "method": "card"},
        trust_env=False,
    )
    charge_id: str = answer.raise_for_status().json()["id"]
    return charge_id


async def test_producers_first(
    node, start_worker, keys, place, sql, gateway_server, mail_server, doctor
):
    payments = keys(PAYMENTS)
    node.ask("startWorker", queue=PAYMENTS, opts={"concurrency": 5})

    # 1. Checkout is ours, with Node's workers behind it.
    receipts = [await place() for _ in range(5)]
    charges = [charge_as_node(gateway_server.url, receipt) for receipt in receipts]
    jobs = assert_each_was_done_once(payments, 5)
    assert by_node(jobs) == jobs
    ran = {job["data"]["paymentId"] for job in node.ask("ran", queue=PAYMENTS)}
    assert ran == {str(receipt.payment_id) for receipt in receipts}
    assert await sql.fetch("SELECT DISTINCT status FROM orders") == [("pending",)]

    # 2. The workers are ours.
    node.ask("stopWorker", queue=PAYMENTS)
    start_worker("payment", "--concurrency", "10")
    start_worker("notification", "--concurrency", "20")
    assert doctor(PAYMENTS) == "1 of orderflow"
    assert doctor(NOTIFICATIONS) == "1 of orderflow"
    later = await place()
    wait_until(lambda: len(mail_server.mails(later.order_id)) == 1, "the mail of a new order")

    # 3. The order worker brings the rows up to date, and no money is taken twice.
    start_worker("order", RECONCILE_INTERVAL_MS="300", RECONCILE_GRACE_MS="1")
    await wait_until_settled(sql)
    rows = await sql.fetch(
        "SELECT transaction_id FROM payments WHERE id <> $1 ORDER BY id", later.payment_id
    )
    assert [row["transaction_id"] for row in rows] == charges
    for receipt in receipts:
        assert gateway_server.charge(receipt.payment_id)["amount"] == str(receipt.total)
        assert len(mail_server.mails(receipt.order_id)) == 1
    assert await sql.fetch("SELECT DISTINCT status FROM orders") == [("confirmed",)]


async def test_and_back(node, start_worker, keys, place, sql, doctor):
    payments = keys(PAYMENTS)
    names = {"payment": PAYMENTS, "notification": NOTIFICATIONS, "order": ORDERS}
    fleet = {name: start_worker(name) for name in names}
    for _ in range(5):
        await place()
    add_payments(node, 20)
    await wait_until_settled(sql)
    assert_each_was_done_once(payments, 25)

    # 2. The order worker goes first, and its schedulers with it.
    assert fleet["order"].stop() == 0
    for scheduler in ("reconcile", "compare-books"):
        assert node.ask("removeJobScheduler", queue=ORDERS, schedulerId=scheduler) is True
    assert node.ask("getJobSchedulers", queue=ORDERS) == []
    for state in ("wait", "delayed", "prioritized"):
        assert keys(ORDERS).count(state) == 0

    # 3. Node's beside ours, then Node alone, with jobs coming in all the time.
    node.ask("startWorker", queue=PAYMENTS, opts={"concurrency": 5})
    wait_until(lambda: doctor(PAYMENTS) == "1 of Node, 1 of orderflow", "both workers")
    add_payments(node, 100, sleep_ms=10)
    assert fleet["payment"].stop() == 0
    assert_each_was_done_once(payments, 125)
    node.ask("startWorker", queue=NOTIFICATIONS, opts={"concurrency": 5})
    assert fleet["notification"].stop() == 0
    add_payments(node, 20)
    done = by_node(assert_each_was_done_once(payments, 145))
    assert len(done) >= 20
    assert doctor(PAYMENTS) == doctor(NOTIFICATIONS) == "1 of Node"
    wait_until(
        lambda: all(
            keys(NOTIFICATIONS).count(state) == 0 for state in ("prioritized", "wait", "active")
        ),
        "Node to end what ours left",
    )


async def test_what_node_ran_goes_into_our_rows_and_is_not_run_again(
    node, resources, place, keys, sql
):
    """With workers in Node that return what the contract says, the order worker may run."""

    returns = {"success": True, "transactionId": "ch_of_node"}
    node.ask("startWorker", queue=PAYMENTS, returns=returns)
    node.ask("startWorker", queue=NOTIFICATIONS, returns={"success": True})
    await place()
    assert_each_was_done_once(keys(PAYMENTS), 1)
    assert await run_over_rested(resources, sql) == Counts(unsettled=1, results_taken=1)
    assert await sql.fetchval("SELECT transaction_id FROM payments") == "ch_of_node"
    assert await sql.fetchval("SELECT status FROM orders") == "confirmed"

    assert await run(resources) == Counts(unsettled=1, jobs_added=1), "the confirmation"
    assert_each_was_done_once(keys(NOTIFICATIONS), 1)
    assert await run(resources) == Counts(unsettled=1, results_taken=1)
    assert await run(resources) == Counts(), "all is well, and Node mailed once"
    assert len(node.ask("ran", queue=NOTIFICATIONS)) == 1


@pytest.fixture
def shop_environment(settings: Settings) -> dict[str, str]:
    return {
        "PORT": str(free_port()),
        "JWT_SECRET": SECRET,
        "REDIS_URL": settings.redis_dsn,
        "DATABASE_URL": settings.database_dsn,
        "QUEUE_PREFIX": settings.queue_prefix,
    }


def test_the_checkout_step_as_it_is_written(
    node, keys, shop_environment, tmp_path, gateway_server, start_worker
):
    """Migrate, load the products, start the API: and its orders are run by Node's worker."""
    for command in (["migrate"], ["products", "load", str(CATALOGUE)]):
        subprocess.run(
            [sys.executable, "-m", "orderflow.cli", *command], env=shop_environment, check=True
        )
    api = start_program(tmp_path / "api.log", "orderflow.api", environment=shop_environment)
    try:
        url = f"http://127.0.0.1:{shop_environment['PORT']}"
        wait_until(lambda: port_is_taken(int(shop_environment["PORT"])), "the API")
        node.ask("startWorker", queue=PAYMENTS)
        body = {
            "items": [{"sku": "tea-assam", "quantity": 1}],
            "paymentMethod": "card",
            "contact": {"email": "ada@shop.example"},
        }
        headers = {"Authorization": f"Bearer {make_token(SECRET, 'ada')}"}
        post = {"json": body, "headers": headers, "trust_env": False}
        by_nodes_worker = httpx.post(f"{url}/checkout", **post).raise_for_status().json()
        assert_each_was_done_once(keys(PAYMENTS), 1)
        [ran] = node.ask("ran", queue=PAYMENTS)
        assert ran["data"]["orderId"] == by_nodes_worker["orderId"]

        node.ask("stopWorker", queue=PAYMENTS)
        start_worker("payment")
        by_ours = httpx.post(f"{url}/checkout", **post).raise_for_status().json()
        wait_until(lambda: gateway_server.charge(by_ours["paymentId"]) is not None, "the charge")
    finally:
        assert api.stop() == 0


OWN_ORDER_WORKER = """
from orderflow.contract import Payload
from orderflow.worker_files import shipped_worker

worker = shipped_worker("order")


@worker.handles("ship-order", Payload)
async def ship_order(_job, _resources):
    return {"shipped": True}
"""


def test_order_jobs_of_ones_own_move_with_a_file(node, keys, start_worker, tmp_path):
    """Without one ours refuses the job by its name; with one it runs it, and Node's is stopped."""
    node.ask("startWorker", queue=ORDERS)
    node.add(ORDERS, "ship-order", {}, NODE_OPTIONS)
    assert_each_was_done_once(keys(ORDERS), 1)
    node.ask("stopWorker", queue=ORDERS)

    (tmp_path / "workers" / "order.py").write_text(OWN_ORDER_WORKER)
    start_worker("order")
    job_id = node.add(ORDERS, "ship-order", {}, NODE_OPTIONS)
    wait_until(lambda: node.job(ORDERS, job_id)["state"] == "completed", "the end of it")
    assert node.job(ORDERS, job_id)["returnvalue"] == {"shipped": True}
    wait_until(lambda: node.ask("getJobSchedulers", queue=ORDERS), "our schedule, kept as well")
