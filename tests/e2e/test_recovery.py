"""What dies comes back, and no order is lost by it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from tests.conftest import Program, start_program, wait_until

from orderflow.sandbox.servers import Server, free_port, port_is_taken, start_redis


@pytest.fixture
def own_redis(closed_shop, tmp_path: Path) -> Iterator[Server]:
    """A Redis that this test alone may break."""
    server = start_redis(tmp_path / "own-redis", free_port())
    closed_shop.environment["REDIS_URL"] = server.url
    yield server
    server.stop()


@pytest.fixture
def own_gateway(closed_shop, tmp_path: Path) -> Iterator[str]:
    """A sandbox gateway whose faults this test alone sets."""
    port = free_port()
    program = start_program(
        tmp_path / "own-gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(tmp_path / "own-ledger.sqlite3")),
    )
    wait_until(lambda: port_is_taken(port), "the gateway")
    closed_shop.environment["GATEWAY_URL"] = f"http://127.0.0.1:{port}"
    yield f"http://127.0.0.1:{port}"
    program.stop()


def set_faults(gateway_url: str, **faults: float) -> None:
    httpx.post(f"{gateway_url}/faults", json=faults, trust_env=False).raise_for_status()


def test_jobs_wait_for_the_api_and_the_workers_to_come_back(closed_shop, mail_server):
    shop = closed_shop
    shop.start("api")
    receipts = [shop.checkout() for _ in range(20)]
    shop.stop("api")
    shop.start("payment", "notification")
    for receipt in receipts:
        wait_until(lambda: len(mail_server.mails(receipt["orderId"])) == 1, "its mail")  # noqa: B023
    shop.stop("payment", "notification")
    shop.start("api", "payment", "notification")
    for receipt in receipts:
        assert shop.order(receipt["orderId"])["status"] == "confirmed"
    receipts.append(shop.checkout())
    shop.wait_for(receipts[-1]["orderId"], "confirmed")


def test_workers_are_replaced_under_load_and_each_order_is_mailed_once(
    closed_shop, mail_server, gateway_server
):
    shop = closed_shop
    shop.start("api", "payment", "notification", "order")
    receipts = []
    for round_ in range(3):
        receipts += [shop.checkout() for _ in range(15)]
        if round_ % 2:
            shop.kill("payment")
        else:
            shop.stop("payment")
        shop.start("payment")
    for receipt in receipts:
        shop.wait_for(receipt["orderId"], "confirmed")
        assert gateway_server.charge(receipt["paymentId"])["status"] == "succeeded"
    for receipt in receipts:
        wait_until(lambda: mail_server.mails(receipt["orderId"]), "its mail")  # noqa: B023
        assert len(mail_server.mails(receipt["orderId"])) == 1


def test_the_shop_is_open_while_redis_is_down(closed_shop, own_redis, tmp_path, mail_server):
    shop = closed_shop
    shop.start("api", "payment", "notification", "order")
    own_redis.stop()
    receipts = [shop.checkout() for _ in range(3)]
    with shop.client() as client:
        ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["redis"]["status"]) == (200, "down")

    again = start_redis(tmp_path / "own-redis", own_redis.port)
    try:
        for receipt in receipts:
            shop.wait_for(receipt["orderId"], "confirmed")
            wait_until(lambda: mail_server.mails(receipt["orderId"]), "its mail")  # noqa: B023
    finally:
        for name in list(shop.programs):
            shop.kill(name)
        again.stop()


def test_an_emptied_redis_loses_no_order(closed_shop, own_redis, mail_server):
    shop = closed_shop
    shop.start("api")
    receipts = [shop.checkout() for _ in range(10)]
    with Redis.from_url(own_redis.url) as redis:
        assert redis.zcard(f"{shop.environment['QUEUE_PREFIX']}:payment-processing:prioritized")
        redis.flushall()
    shop.start("payment", "notification", "order")
    for receipt in receipts:
        shop.wait_for(receipt["orderId"], "confirmed")
        wait_until(lambda: mail_server.mails(receipt["orderId"]), "its mail")  # noqa: B023


def test_an_outage_that_outlasts_all_attempts_ends_in_a_paid_order(
    closed_shop, own_gateway, settings, mail_server
):
    shop = closed_shop
    set_faults(own_gateway, faultRate=1.0)
    shop.start("api", "payment", "notification")
    receipt = shop.checkout()
    failed = f"{settings.queue_prefix}:payment-processing:failed"
    with Redis.from_url(settings.redis_dsn) as redis:
        wait_until(lambda: redis.zcard(failed) == 1, "the last attempt")
    order = shop.order(receipt["orderId"])
    assert (order["status"], order["payment"]["status"]) == ("processing", "processing")
    assert mail_server.mails(receipt["orderId"]) == [], "nobody is told what is not known"

    set_faults(own_gateway, faultRate=0.0)
    shop.start("order")
    shop.wait_for(receipt["orderId"], "confirmed")
    wait_until(lambda: len(mail_server.mails(receipt["orderId"])) == 1, "the mail")


def start_payments(shop, label: str, **changes: str) -> Program:
    """Start one of several payment workers, each with many slots."""
    program = start_program(
        shop.folder / f"{label}.log",
        *("orderflow.worker", "payment", "--concurrency", "50"),
        environment=shop.environment | changes,
    )
    shop.programs[label] = program
    wait_until(lambda: "worker started" in program.log.read_text(), "the start")
    return program


def charges(gateway_url: str) -> int:
    return int(httpx.get(f"{gateway_url}/charges", trust_env=False).json()["count"])


def test_what_a_killed_worker_had_under_way_is_with_another_in_seconds(
    closed_shop, own_gateway, settings, redis
):
    shop = closed_shop
    shop.start("api")
    receipts = [shop.checkout() for _ in range(50)]
    set_faults(own_gateway, latencyMs=60_000)
    queue = f"{settings.queue_prefix}:payment-processing"
    start_payments(shop, "first", GATEWAY_TIMEOUT_MS="60000")
    wait_until(lambda: redis.llen(f"{queue}:active") == 50, "all jobs under way")
    start_payments(shop, "second")
    set_faults(own_gateway, latencyMs=0)
    shop.kill("first")
    lock_ms, interval_ms = (
        int(shop.environment[name]) for name in ("WORKER_LOCK_MS", "WORKER_STALLED_INTERVAL_MS")
    )
    # What the settings promise, and ten seconds for a busy machine to do the work in.
    patience_s = (lock_ms + 2 * interval_ms) / 1_000 + 10
    wait_until(lambda: redis.zcard(f"{queue}:completed") == 50, "all jobs", patience_s)
    for job_id in completed(redis, queue):
        job = redis.hgetall(f"{queue}:{job_id}")
        assert (job["stc"], job["ats"], job["atm"]) == ("1", "2", "1")
    for receipt in receipts:
        assert shop.order(receipt["orderId"])["status"] == "confirmed"
    assert charges(own_gateway) == 50


def test_a_worker_that_slept_past_its_locks_changes_nothing_when_it_wakes(
    closed_shop, own_gateway, settings, redis
):
    shop = closed_shop
    shop.start("api")
    receipts = [shop.checkout() for _ in range(5)]
    set_faults(own_gateway, latencyMs=6_000)
    queue = f"{settings.queue_prefix}:payment-processing"
    # For one that neither ends itself nor gives up asking for having slept.
    limits = ("WORKER_HANG_MS", "JOB_TIMEOUT_MS", "GATEWAY_TIMEOUT_MS", "DATABASE_TIMEOUT_MS")
    sleeper = start_payments(shop, "sleeper", **dict.fromkeys(limits, "600000"))
    for receipt in receipts:
        shop.wait_for(receipt["orderId"], "processing")
    sleeper.process.send_signal(signal.SIGSTOP)
    set_faults(own_gateway, latencyMs=0)
    start_payments(shop, "other")
    wait_until(lambda: redis.zcard(f"{queue}:completed") == 5, "all jobs by the other")
    jobs = {job_id: redis.hgetall(f"{queue}:{job_id}") for job_id in completed(redis, queue)}
    orders = [shop.order(receipt["orderId"]) for receipt in receipts]
    assert {order["status"] for order in orders} == {"confirmed"}

    sleeper.process.send_signal(signal.SIGCONT)
    wait_until(
        lambda: sleeper.log.read_text().count("payment was settled by another worker") == 5,
        "the sleeper to go on with each",
    )
    shop.stop("sleeper")
    assert [shop.order(receipt["orderId"]) for receipt in receipts] == orders
    assert {job_id: redis.hgetall(f"{queue}:{job_id}") for job_id in jobs} == jobs
    assert charges(own_gateway) == 5
    assert redis.zcard(f"{queue}:failed") == 0


def completed(redis: Redis, queue: str) -> list[str]:
    ids: list[str] = redis.zrange(f"{queue}:completed", 0, -1)
    return ids
