"""A gateway that is down: what it costs the orders that meet it, and how they go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.integration.conftest import PlaceOrder

from orderflow.charge import charge_payment
from orderflow.checkout import Receipt
from orderflow.contract import PaymentJob, QueueName
from orderflow.errors import GatewayResting, GatewayUnavailable
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.settings import Settings

FAILURES, CONCURRENCY, ORDERS = 5, 10, 200


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """A sandbox gateway whose faults this test alone sets."""
    port = free_port()
    program = start_program(
        tmp_path / "gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(tmp_path / "ledger.sqlite3")),
    )
    wait_until(lambda: port_is_taken(port), "the gateway")
    yield f"http://127.0.0.1:{port}"
    program.stop()


@pytest.fixture
def settings(settings: Settings, gateway: str) -> Settings:
    return settings.model_copy(
        update={
            "gateway_url": gateway,
            "gateway_breaker_failures": FAILURES,
            "gateway_breaker_rest_ms": 100,
        }
    )


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[Program]]:
    environment = {
        **process_environment(settings),
        "GATEWAY_BREAKER_FAILURES": str(FAILURES),
        "GATEWAY_BREAKER_REST_MS": "100",
        "RECONCILE_INTERVAL_MS": "500",
        "RECONCILE_GRACE_MS": "500",
    }
    started = [
        start_program(
            tmp_path / f"{name}.log",
            "orderflow.worker",
            *(name, "--concurrency", str(CONCURRENCY)),
            environment=environment,
        )
        for name in ("payment", "order")
    ]
    yield started
    for program in started:
        program.process.kill()
        program.process.wait()


def fail_charges(gateway: str, times: int) -> None:
    faults = {"failNextCharges": times}
    httpx.post(f"{gateway}/faults", json=faults, trust_env=False).raise_for_status()


def count_charges(gateway: str) -> tuple[int, int]:
    """Return how many charges there are, and how many took money."""
    counted = httpx.get(f"{gateway}/charges", trust_env=False).json()
    return counted["count"], counted["succeeded"]


async def test_an_outage_costs_hardly_an_attempt_and_all_orders_end(
    settings, gateway, place: PlaceOrder, redis: Redis, sql, workers
):
    assert workers
    fail_charges(gateway, 1_000_000)
    receipts = await asyncio.gather(*(place() for _ in range(ORDERS)))

    key = settings.queue_names.outage("gateway")
    seen: dict[str, dict[str, str]] = {}

    def rested_often() -> bool:
        told = redis.get(key)
        if told is not None:
            seen[told] = json.loads(told)
        return len(seen) >= 4

    await asyncio.to_thread(wait_until, rested_often, "the rests of the breaker")
    assert {told["reason"] for told in seen.values()} == {"HTTP 503"}
    assert len({told["since"] for told in seen.values()}) == 1
    assert len({told["until"] for told in seen.values()}) == len(seen)

    # The queue was slowed: jobs were tried as often as the breaker let one through, and no more.
    job = f"{settings.queue_prefix}:{QueueName.PAYMENTS}:payment-"
    assert sum(_count(redis, f"{job}{r.payment_id}", "ats") for r in receipts) <= ORDERS
    fail_charges(gateway, 0)

    async with asyncio.timeout(60):
        while await sql.fetchval("SELECT count(*) FROM orders WHERE status <> 'confirmed'"):
            await asyncio.sleep(0.05)
    assert count_charges(gateway) == (ORDERS, ORDERS)
    await asyncio.to_thread(wait_until, lambda: not redis.exists(key), "the end of the outage")
    await asyncio.to_thread(
        wait_until,
        lambda: redis.zcard(f"{settings.queue_prefix}:{QueueName.PAYMENTS}:completed") == ORDERS,
        "the end of the last job",
    )
    # The attempt that ended it is one.
    attempts = [_count(redis, f"{job}{r.payment_id}", "atm") for r in receipts]
    assert sum(made > 1 for made in attempts) <= 2 * FAILURES + len(seen)


def _count(redis: Redis, job: str, field: str) -> int:
    return int(redis.hget(job, field) or 0)


async def charge(receipt: Receipt, resources: Resources) -> dict[str, Any]:
    data = {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": "card", "amount": str(receipt.total)},
    }
    return await charge_payment(
        PaymentJob.model_validate(data),
        db=resources.db,
        gateway=resources.gateway,
        queues=resources.queues,
        currency="EUR",
    )


async def test_the_failure_that_opens_the_breaker_and_what_comes_then_is_postponed(
    settings, gateway, place: PlaceOrder
):
    receipts = [await place() for _ in range(FAILURES + 1)]
    fail_charges(gateway, FAILURES)
    async with open_resources(settings) as resources:
        for receipt in receipts[: FAILURES - 1]:
            with pytest.raises(GatewayUnavailable) as failed:
                await charge(receipt, resources)
            assert not isinstance(failed.value, GatewayResting)
        for receipt in receipts[FAILURES - 1 :]:
            with pytest.raises(GatewayResting) as resting:
                await charge(receipt, resources)
            assert 0 < resting.value.retry_after_s <= 0.1
            assert resting.value.reason == "HTTP 503"
        for receipt in receipts:
            async with asyncio.timeout(10):
                while not await is_charged(receipt, resources):
                    await asyncio.sleep(0.01)


async def is_charged(receipt: Receipt, resources: Resources) -> bool:
    try:
        return bool((await charge(receipt, resources))["success"])
    except GatewayResting:
        return False


async def test_declines_are_answers(settings, place: PlaceOrder):
    receipts = [await place(paymentToken="tok_decline") for _ in range(2 * FAILURES)]
    async with open_resources(settings) as resources:
        assert not any([await is_charged(receipt, resources) for receipt in receipts])
