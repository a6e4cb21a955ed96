"""What tests of deleting and forgetting share: an order that left a trace wherever there is one."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID, uuid4

import asyncpg
from redis import Redis
from tests.integration.life import charge, give_back, tell
from tests.integration.working import until, working

from orderflow.checkout import IdempotencyKey, Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.contract import QueueName, order_confirmation_job
from orderflow.operations.audit import Actor, audited
from orderflow.operations.failures import failures_of_order
from orderflow.operations.life import deliver_order, ship_order
from orderflow.refund import request_refund
from orderflow.resources import Resources

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

#: Whatever of it is found after the person is forgotten was not forgotten.
PERSON = {
    "user": "user-of-lovelace",
    "email": "ada.lovelace@shop.example",
    "phone": "+4915112345678",
    "name": 'Ada "Countess" Lovelace',
    "street": "12 St. James's Square",
    "house": "Ockham (Hall) + Garden",
    "tracking": "00340434161094021501",
}


async def live_an_order(resources: Resources, sql: Sql) -> Receipt:
    """Let an order of the person go all the way, and fail at all that may fail."""
    db, queues = resources.db, resources.queues
    receipt = await place_order(
        _checkout(), PERSON["user"], IdempotencyKey("a-key", 3_600), db=db, queues=queues
    )
    order_id = str(receipt.order_id)
    await charge(resources, receipt)
    await _fail(resources, order_id)
    await tell(resources, "order-confirmation", receipt)
    actor = Actor("ada", "page", f"{PERSON['name']} called from {PERSON['phone']}")
    await ship_order(order_id, "Parcels", PERSON["tracking"], actor, db=db, queues=queues)
    await tell(resources, "order-shipped", receipt)
    await deliver_order(order_id, actor, db=db, queues=queues)
    await tell(resources, "order-delivered", receipt)
    asked = await request_refund(order_id, Decimal("1.00"), PERSON["email"], db=db, queues=queues)
    await give_back(resources, receipt, asked.refund_id)
    await tell(resources, "order-refunded", receipt, asked.refund_id)
    why = Actor("ada", "cli", f"as {PERSON['email']} wrote")
    note = {"said": [PERSON["name"]]}
    async with audited(why, "retry group", PERSON["phone"], db=db, details=note):
        pass
    await _leave_the_rest(sql, receipt)
    return receipt


def _checkout() -> Checkout:
    address = {"name": PERSON["name"], "line1": PERSON["street"], "line2": PERSON["house"]}
    return Checkout.model_validate(
        {
            "items": [
                {"sku": "pot-glass", "quantity": 2},
                {"sku": "tea-assam", "quantity": 1},
            ],
            "paymentMethod": "card",
            "paymentToken": "tok_approve",
            "contact": {"email": PERSON["email"], "phone": PERSON["phone"], "language": "de"},
            "shippingAddress": address | {"postalCode": "10115", "city": "Berlin", "country": "DE"},
        }
    )


async def _fail(resources: Resources, order_id: str) -> None:
    """Have a job of the order fail for good, and one of a producer that has its own id."""

    async def fail(_delivery: object) -> dict[str, object]:
        raise ValueError(f"{PERSON['name']} of {PERSON['street']} <{PERSON['email']}> is unknown")

    queue = resources.queues.queue(QueueName.NOTIFICATIONS)
    data = {"orderId": order_id, "userId": PERSON["user"], "customer": {"email": PERSON["email"]}}
    for job_id in (order_confirmation_job(order_id, None).job_id, "job-of-a-producer"):
        await queue.remove(job_id)
        await queue.add("order-confirmation", data, {"jobId": job_id, "attempts": 1, "backoff": 0})
    async with working(resources, QueueName.NOTIFICATIONS, fail):

        async def kept() -> bool:
            return len(await failures_of_order(UUID(order_id), db=resources.db)) == 2

        await until(kept)


async def _leave_the_rest(sql: Sql, receipt: Receipt) -> None:
    """Write what otherwise takes a gateway that errs, and an operator in trouble."""
    payment, name = receipt.payment_id, PERSON["name"]
    await sql.execute(
        "UPDATE payments SET decline_reason = 'the card of ' || $2 WHERE id = $1", payment, name
    )
    await sql.execute("UPDATE refunds SET decline_reason = 'no account of ' || $1::text", name)
    await sql.execute(
        "UPDATE notifications SET sent_at = NULL, refused_reason = $1 WHERE channel = 'sms'",
        PERSON["phone"],
    )
    await sql.execute(
        """
        INSERT INTO stray_charges (payment_id, transaction_id, refunded_at)
        VALUES ($1, 'ch_stray', now())
        """,
        payment,
    )
    await sql.execute(
        """
        INSERT INTO book_differences
            (kind, entry, transaction_id, payment_id, currency, made_at, settled_at)
        VALUES ('second', 'charge', 'ch_stray', $1, 'EUR', now(), now())
        """,
        payment,
    )
    await sql.execute(
        """
        INSERT INTO gateway_events
            (gateway, event_id, type, payment_id, happened_at, done, handled_at)
        VALUES ('stripe', 'evt_1', 'charge.updated', $1, now(), 'nothing to do', now())
        """,
        payment,
    )
    await sql.execute(
        """
        WITH told AS (
            INSERT INTO webhook_deliveries
                (endpoint_id, type, order_id, order_status, status, due_at, ended_at)
            VALUES ($1, 'order.shipped', $2, 'shipped', 'delivered', NULL, now())
            RETURNING id
        )
        INSERT INTO webhook_attempts (delivery_id, attempt, took_ms, status_code, answer)
        SELECT id, 1, 5, 200, 'thanks, ' || $3 FROM told
        """,
        uuid4(),
        receipt.order_id,
        name,
    )
    await sql.execute(
        """
        INSERT INTO bulk_actions
            (id, action, fingerprint, queue, actor, reason, per_second, state, jobs, refusals)
        VALUES ($1, 'retry', 'f', 'notifications', 'ada', $2, 1, 'done', 1,
                jsonb_build_array($2::text))
        """,
        uuid4(),
        f"for {name}",
    )


async def drop_jobs(redis: Redis, resources: Resources) -> None:
    """Forget all jobs, as Redis does with those that ended."""
    for key in redis.scan_iter(f"{resources.settings.queue_prefix}:*"):
        redis.delete(key)


async def columns(sql: Sql, kind: str) -> list[tuple[str, str]]:
    """Return the table and name of every column of a type."""
    rows = await sql.fetch(
        "SELECT c.table_name, c.column_name FROM information_schema.columns c"
        " JOIN information_schema.tables t USING (table_schema, table_name)"
        " WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.data_type = $1"
        " ORDER BY 1, 2",
        kind,
    )
    return [(row["table_name"], row["column_name"]) for row in rows]


async def age(sql: Sql, days: int) -> None:
    """Let everything be so many days older, the ids of orders too: they begin with their time."""
    # No trigger runs then, nor do foreign keys ask for their rows.
    await sql.execute("SET session_replication_role = replica")
    for table, column in await columns(sql, "timestamp with time zone"):
        await sql.execute(
            f"UPDATE {table} SET {column} = {column} - $1::interval", timedelta(days=days)
        )
    keys = [(table, name) for table, name in await columns(sql, "uuid") if name == "order_id"]
    for row in await sql.fetch("SELECT id FROM orders"):
        older = UUID(int=row["id"].int - (days * 86_400_000 << 80))
        for table, column in [("orders", "id"), *keys]:
            await sql.execute(
                f"UPDATE {table} SET {column} = $2 WHERE {column} = $1", row["id"], older
            )
        await sql.execute(
            """
            UPDATE idempotency_keys SET answer = answer || jsonb_build_object('orderId', $2::text)
            WHERE answer ->> 'orderId' = $1
            """,
            str(row["id"]),
            str(older),
        )
    await sql.execute("SET session_replication_role = origin")


async def all_rows(sql: Sql) -> str:
    """Return every column of every row of every table as text."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    lines = []
    for table in sorted(row["tablename"] for row in tables):
        rows = await sql.fetch(f"SELECT t::text AS row FROM {table} t ORDER BY 1")
        lines += [f"{table} {row['row']}" for row in rows]
    # As text a row doubles the quotes and backslashes of its columns.
    return "\n".join(lines).replace('""', '"').replace("\\\\", "\\")


def all_keys(redis: Redis, prefix: str) -> str:
    """Return every key of the shop in Redis with its value as text."""
    read = {
        "string": redis.get,
        "hash": redis.hgetall,
        "list": lambda key: redis.lrange(key, 0, -1),
        "set": redis.smembers,
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        "stream": redis.xrange,
    }
    keys = sorted(redis.scan_iter(f"{prefix}:*"))
    return "\n".join(f"{key} {read[redis.type(key)](key)}" for key in keys)


def found_of_person(text: str) -> set[str]:
    """Return what of the person a text has, however it is spelled there."""
    spelled = {
        what: {value, value.replace('"', '\\"'), value.replace("'", "\\'")}
        for what, value in PERSON.items()
    }
    folded = text.casefold()
    return {
        what for what, forms in spelled.items() if any(form.casefold() in folded for form in forms)
    }
