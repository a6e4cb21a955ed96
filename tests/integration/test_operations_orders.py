"""Orders are found by whatever somebody has of them, and told on one line of time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from tests.conftest import process_environment, start_program, wait_until
from tests.integration.conftest import PlaceOrder
from tests.integration.life import charge
from tests.integration.working import ADA, until

from orderflow.contract import QueueName
from orderflow.errors import OrderNotFound
from orderflow.operations.jobs import promote_job
from orderflow.operations.orders import find_orders
from orderflow.operations.story import tell_story
from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.testing import perform_job


@pytest.fixture
def stores(resources: Resources) -> dict[str, Any]:
    return {"db": resources.db, "queues": resources.queues}


async def test_an_order_is_found_by_every_id_of_it(
    resources: Resources, place: PlaceOrder, stores: Any
) -> None:
    receipt = await place(contact={"email": "Grace@Shop.Example"})
    other = await place()
    transaction = (await charge(resources, receipt))["transactionId"]
    order, payment = str(receipt.order_id), str(receipt.payment_id)

    for text, found_by in {
        order: "order id",
        f"  {order.upper()} ": "order id",
        payment: "payment id",
        f"payment-{payment}": "job id",
        f"order-confirmation-{order}": "job id",
        transaction: "transaction id",
        "grace@shop.example": "e-mail",
        "GRACE@shop.example": "e-mail",
    }.items():
        found = await find_orders(text, **stores)
        assert [(str(one.id), one.found_by) for one in found] == [(order, found_by)], text
    both = await find_orders("user-1", **stores)
    assert [one.id for one in both] == [other.order_id, receipt.order_id]
    assert len(await find_orders("user-1", **stores, limit=1)) == 1
    for text in ("", " ", "nobody", str(uuid4()), "a\x00b", "ada@shop", "%", "x" * 300):
        assert await find_orders(text, **stores) == []


async def test_an_adopted_order_is_found_by_its_producers_ids(
    resources: Resources, stores: Any
) -> None:
    data = {"paymentId": 77, "orderId": "shop-42", "paymentData": {"method": "card", "amount": 5}}
    await resources.queues.queue(QueueName.PAYMENTS).add(
        "process-payment", data, {"jobId": "their-own-name"}
    )
    await perform_job("payment", "process-payment", data, resources)

    for text in ("shop-42", "77", "their-own-name"):
        (found,) = await find_orders(text, **stores)
        assert found.external_id == "shop-42"
        assert found.source == "external"


async def test_the_search_reads_by_index(sql: Any) -> None:
    """Of each table the plan reads what an index gives, and never all of it."""
    from orderflow.db.pool import BY_KEY, QUERIES

    # In a shop of a few orders any way is short.
    await sql.execute("""
        WITH placed AS (
            INSERT INTO orders (id, source, user_id, status, total, currency, email)
            SELECT gen_random_uuid(), 'checkout', n % 4000, 'pending', 1, 'EUR',
                   n % 4000 || '@shop.example'
            FROM generate_series(1, 20000) n
            RETURNING id
        )
        INSERT INTO payments (id, order_id, method, amount, currency, status, transaction_id)
        SELECT gen_random_uuid(), id, 'card', 1, 'EUR', 'completed', 'ch_' || id FROM placed
    """)
    await sql.execute("""
        INSERT INTO job_failures (queue, job_id, job_name, order_id, attempt, final,
                                  error_type, message, stack, fingerprint, worker)
        SELECT 'payment-processing', 'payment-' || n, 'process-payment', gen_random_uuid(), 1,
               false, 'GatewayUnavailable', '', '', n % 4, 'w'
        FROM generate_series(1, 2000) n
    """)
    await sql.execute("ANALYZE")
    for name, value in BY_KEY.items():
        await sql.execute(f"SET {name} = '{value}'")
    await sql.execute("SET plan_cache_mode = force_generic_plan")
    await sql.execute(f"PREPARE look AS {QUERIES['search_orders']}")
    plan = await sql.fetch("EXPLAIN EXECUTE look('{}', 'x', 'x', 20, '{}')")
    text = "\n".join(row[0] for row in plan)
    scanned = {line.split(" on ")[1].split()[0] for line in text.splitlines() if "Seq Scan" in line}
    assert scanned <= {"stray_charges"}
    for index in ("orders_email_filter", "orders_of_user", "payments_transaction_filter"):
        assert index in text
    assert "job_failures_of_job" in text


async def test_the_story_of_an_order_has_all_of_it(
    place: PlaceOrder,
    settings: Settings,
    tmp_path: Path,
    redis: Redis,
    sql: Any,
    stores: Any,
) -> None:
    """A gateway that is out of order at first, a person who helps, and a mail in the end."""
    receipt = await place()
    order, job_id = str(receipt.order_id), f"payment-{receipt.payment_id}"
    environment = process_environment(settings)
    broken = environment | {"GATEWAY_URL": "http://127.0.0.1:9", "GATEWAY_BREAKER_FAILURES": "1000"}
    delayed = f"{settings.queue_prefix}:{QueueName.PAYMENTS}:delayed"
    program = start_program(tmp_path / "a.log", "orderflow.worker", "payment", environment=broken)
    try:
        await asyncio.to_thread(
            wait_until, lambda: redis.zscore(delayed, job_id) is not None, "a failed attempt"
        )
    finally:
        assert await asyncio.to_thread(program.stop) == 0
    await sql.execute(
        "INSERT INTO stray_charges (payment_id, transaction_id) VALUES ($1, 'ch_stray')",
        receipt.payment_id,
    )
    await promote_job(QueueName.PAYMENTS, job_id, ADA, **stores)
    programs = [
        start_program(tmp_path / f"{name}.log", "orderflow.worker", name, environment=environment)
        for name in ("payment", "notification")
    ]
    try:
        await until(lambda: told(stores, order))
    finally:
        for program in programs:
            assert await asyncio.to_thread(program.stop) == 0

    story = await tell_story(order, **stores)

    assert story.status == "confirmed"
    assert [event.at for event in story.events] == sorted(event.at for event in story.events)
    said = [(event.kind, event.what) for event in story.events]
    assert said[0] == ("order", "the order was placed")
    for kind, what in (
        ("job", "process-payment was added to payment-processing"),
        ("failure", "attempt 1 of process-payment failed: The payment gateway gave no outcome"),
        ("charge", "a charge came that the order has no use for"),
        ("action", f"ada did by hand: promote payment-processing {job_id}, because as tested"),
        ("payment", "the gateway took the money"),
        ("job", "process-payment completed"),
        ("message", "order-confirmation was sent by email"),
        ("order", "the customer knows it: confirmed"),
    ):
        assert any(k == kind and w.startswith(what) for k, w in said), (kind, what, said)
    assert "ada@shop.example" not in repr(story)
    assert "tok_approve" not in repr(story)


async def told(stores: Any, order: str) -> bool:
    story = await tell_story(order, **stores)
    return any("the customer knows it" in event.what for event in story.events)


async def test_an_unknown_order_has_no_story(stores: Any) -> None:
    with pytest.raises(OrderNotFound):
        await tell_story("nothing", **stores)
