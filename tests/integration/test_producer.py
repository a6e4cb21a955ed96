"""Jobs that a service in Python adds: those of the contract, and of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from orderflow.bull.queues import JobQueues
from orderflow.contract import JOB_OPTIONS, Priorities, Priority, payment_job
from orderflow.errors import InvalidPayload
from orderflow.producer import JobProducer
from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.testing import perform_job

PAYMENTS, NOTIFICATIONS = "payment-processing", "notifications"


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[JobProducer]:
    async with JobProducer(settings.redis_dsn, prefix=settings.queue_prefix) as producer:
        yield producer


@pytest.fixture
def job_of(redis: Redis, settings: Settings) -> Any:
    def job_of(queue: str, job_id: str) -> dict[str, Any]:
        found = redis.hgetall(f"{settings.queue_prefix}:{queue}:{job_id}")
        return found | {name: json.loads(found[name]) for name in ("data", "opts")}

    return job_of


async def test_a_payment_is_what_the_checkout_itself_would_add(
    producer: JobProducer, job_of: Any, settings: Settings, resources: Resources
) -> None:
    job_id = await producer.process_payment("7001", "4711", "card", Decimal("19.99"))
    ours = job_of(PAYMENTS, job_id)
    queues: JobQueues = resources.queues
    await queues.remove(payment_job("7001", "4711", "card", Decimal("19.99")))
    await queues.add(payment_job("7001", "4711", "card", Decimal("19.99")))
    theirs = job_of(PAYMENTS, job_id)
    assert ours | {"timestamp": 0} == theirs | {"timestamp": 0}
    assert ours["name"] == "process-payment"
    assert ours["opts"].items() >= {"attempts": 3, "priority": settings.priority_high}.items()


async def test_an_order_of_others_is_adopted_and_charged(
    producer: JobProducer, job_of: Any, resources: Resources, sql: Any
) -> None:
    job_id = await producer.process_payment("shop:7", "shop:8", "cash", Decimal("19.99"))
    data = job_of(PAYMENTS, job_id)["data"]
    assert (await perform_job("payment", "process-payment", data, resources))["success"]
    row = await sql.fetchrow("SELECT external_id, source, status, total FROM orders")
    assert tuple(row) == ("shop:8", "external", "confirmed", Decimal("19.99"))


async def test_a_job_is_added_once_while_the_first_exists(
    producer: JobProducer, redis: Redis, settings: Settings
) -> None:
    for _ in range(3):
        await producer.process_payment("7001", "4711", "card", Decimal("19.99"))
    assert redis.zcard(f"{settings.queue_prefix}:{PAYMENTS}:prioritized") == 1


async def test_the_notifications(producer: JobProducer, job_of: Any) -> None:
    told = job_of(NOTIFICATIONS, await producer.order_confirmation("4711", "ada"))
    assert (told["name"], told["data"]) == (
        "order-confirmation",
        {"orderId": "4711", "userId": "ada"},
    )
    told = job_of(NOTIFICATIONS, await producer.payment_failed("4711", reason="card_declined"))
    assert (told["name"], told["data"]) == (
        "payment-failed",
        {"orderId": "4711", "userId": None, "reason": "card_declined"},
    )


@pytest.mark.parametrize(
    ("payment_id", "order_id", "method", "amount", "field"),
    [
        ("", "4711", "card", Decimal(1), "paymentId"),
        ("7001", "x" * 256, "card", Decimal(1), "orderId"),
        ("7001", "4711", "gold", Decimal(1), "paymentData.method"),
        ("7001", "4711", "card", Decimal("0.001"), "paymentData.amount"),
        ("7001", "4711", "card", Decimal(-1), "paymentData.amount"),
        ("7001", "4711", "card", Decimal("NaN"), "paymentData.amount"),
    ],
)
async def test_what_no_worker_could_read_is_refused_by_its_field_and_not_added(
    producer: JobProducer,
    redis: Redis,
    settings: Settings,
    payment_id: str,
    order_id: str,
    method: str,
    amount: Decimal,
    field: str,
) -> None:
    with pytest.raises(InvalidPayload, match=f"The data of 'process-payment' .*{field}: "):
        await producer.process_payment(payment_id, order_id, method, amount)
    assert list(redis.scan_iter(match=f"{settings.queue_prefix}:{PAYMENTS}:*")) == []


async def test_a_job_of_ones_own(settings: Settings, job_of: Any) -> None:
    old_node = Priorities(high=20, medium=10, low=1)
    async with JobProducer(
        settings.redis_dsn, prefix=settings.queue_prefix, priorities=old_node
    ) as producer:
        job_id = await producer.add(
            "invoices", "write-invoice", {"orderId": "4711"}, priority=Priority.HIGH
        )
        job = job_of("invoices", job_id)
        assert (job["name"], job["data"], job["priority"]) == (
            "write-invoice",
            {"orderId": "4711"},
            "20",
        )
        assert job["opts"]["removeOnFail"] == JOB_OPTIONS.to_bullmq()["removeOnFail"]
        assert await producer.add("invoices", "write-invoice", {}, job_id="of-7") == "of-7"
        with pytest.raises(ValueError, match="Custom Id cannot be integers"):
            await producer.add("invoices", "write-invoice", {}, job_id="7")


async def test_a_redis_that_is_away_is_told() -> None:
    async with JobProducer("redis://127.0.0.1:9/0") as producer:
        with pytest.raises(RedisError):
            await producer.process_payment("7001", "4711", "card", Decimal("19.99"))
