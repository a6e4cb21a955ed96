"""A stock worker of the shop, with bullmq's own Worker and asyncpg.

`python -m bench.peers.stock_orders payment|notification CONCURRENCY RECORDS` does what payment.mjs
and notification.mjs do.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from bullmq import Job

from bench.peers.stock import configure_logs, open_queue, work

_KIND = "order-confirmation"
_CLAIM_S = 10
_OPEN = ["pending", "processing"]
_ORDER_MAY_BE_CONFIRMED = ["pending", "processing"]
_STATEMENTS_FILE = Path(__file__).with_name("orders.sql")


def _read_statements() -> dict[str, str]:
    _, *parts = re.split(r"^-- name: (\w+)$", _STATEMENTS_FILE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


_STATEMENTS = _read_statements()
_log = configure_logs()


class _Shop:
    """What both workers hold."""

    def __init__(self, pool: asyncpg.Pool[Any], records: str) -> None:
        self._pool = pool
        self._record = os.open(records, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._notifications = open_queue("notifications")

    async def pay(self, job: Job, _token: str) -> dict[str, Any]:
        payment_id, order_id = job.data["paymentId"], job.data["orderId"]
        payment = await self._query("find_payment", payment_id)
        asked = job.data["paymentData"]
        if (
            payment is None
            or str(payment["order_id"]) != order_id
            or str(payment["amount"]) != asked["amount"]
            or payment["method"] != asked["method"]
        ):
            raise ValueError(f"the job contradicts payment {payment_id}")
        transaction_id = payment["transaction_id"]
        if payment["status"] in _OPEN:
            await self._query("begin_charge", payment_id)
            self._write(payment_id)
            transaction_id = f"recorded-{payment_id}"
            await self._query(
                "settle_paid", payment_id, transaction_id, _OPEN, _ORDER_MAY_BE_CONFIRMED
            )
            _log.info('"event":"payment settled","order_id":"%s"', order_id)
        await self._notifications.add(
            _KIND,
            {"orderId": order_id, "userId": payment["user_id"]},
            {"jobId": f"{_KIND}-{order_id}", "priority": 1},
        )
        return {"success": True, "transactionId": transaction_id}

    async def notify(self, job: Job, _token: str) -> dict[str, Any]:
        order_id = job.data["orderId"]
        order = await self._query("find_order", order_id)
        if order is None or order["status"] != "confirmed":
            raise ValueError(f"order {order_id} is not confirmed")
        sent = []
        message = (order_id, _KIND, "email")
        if await self._query("claim_notification", *message, order["email"], _CLAIM_S):
            self._write(f"{order_id} {time.time_ns() // 1_000_000} {len(_render(order))}")
            await self._query("record_sent", *message, f"{_KIND}.{order_id}")
            sent.append("email")
        await self._query("mark_notified", order_id)
        _log.info('"event":"customer notified","order_id":"%s"', order_id)
        return {"success": True, "sent": sent}

    async def _query(self, name: str, *args: Any) -> asyncpg.Record | None:
        return await self._pool.fetchrow(_STATEMENTS[name], *args)

    def _write(self, line: str) -> None:
        os.write(self._record, f"{line}\n".encode())


def _render(order: asyncpg.Record) -> str:
    lines = [
        f"{item['quantity']} x {item['name']}  {item['unit_price']} {order['currency']}"
        for item in json.loads(order["items"])
    ]
    return "\n".join(
        [
            f"Thank you for your order.\n\nYour order {order['id']} is paid and confirmed.\n",
            *lines,
            f"\nTotal: {order['total']} {order['currency']}\n",
        ]
    )


async def _main(name: str, concurrency: int, records: str) -> None:
    size = int(os.environ["DATABASE_POOL_SIZE"])
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=size, max_size=size
    ) as pool:
        shop = _Shop(pool, records)
        if name == "payment":
            await work("payment-processing", shop.pay, concurrency)
        else:
            await work("notifications", shop.notify, concurrency)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
