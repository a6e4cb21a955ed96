"""The verdict on a run: the customers' answers beside PostgreSQL, gateway and mails."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any

import asyncpg

from orderflow.products import Product
from orderflow.sandbox.chaos.customers import Customers, Wish
from orderflow.sandbox.chaos.stack import Stack

#: Longer than three attempts with their backoff, a dead worker's lock, two runs of a reconciler.
PATIENCE_S = 180.0
_LOOK_EVERY_S = 0.1


@dataclass
class Verdict:
    """What is not as it must be, a line each; `told_twice` is what no system can rule out."""

    orders: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    told_twice: int = 0
    recovery_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing is lost, double or wrong."""
        return not (self.lost or self.double or self.wrong)

    @property
    def complaints(self) -> list[str]:
        """All that is not as it must be."""
        kinds = {"lost": self.lost, "double": self.double, "wrong": self.wrong}
        return [f"{kind}: {line}" for kind, lines in kinds.items() for line in lines]


async def judge(stack: Stack, customers: Customers) -> Verdict:
    """Wait until every order of the run is told to its customer, and count everything."""
    db = await asyncpg.connect(stack.postgres.url)
    try:
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_S:
            if not await db.fetchval(_OPEN, f"{customers.tag}-%"):
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        verdict = Verdict(recovery_s=time.monotonic() - began)
        rows = await db.fetch(_ORDERS, f"{customers.tag}-%")
        charges = _charges(stack.ledger)
        _judge_orders(customers, rows, charges, _mails(stack.mails), verdict)
        payments = {str(row["id"]) for row in await db.fetch("SELECT id FROM payments")}
        verdict.wrong += [f"charge {key} is of no payment" for key in charges.keys() - payments]
        await _judge_stock(db, stack.products, verdict)
        return verdict
    finally:
        await db.close()


_OPEN = """
SELECT count(*) FROM orders WHERE email LIKE $1 AND notified_at IS NULL
"""
_ORDERS = """
SELECT o.id, o.email, o.user_id, o.status, o.notified_at, o.total,
       p.id AS payment_id, p.status AS payment_status, p.method
FROM orders o JOIN payments p ON p.order_id = o.id
WHERE o.email LIKE $1
"""
_SHELF = """
SELECT p.stock, coalesce(sum(i.quantity), 0) AS taken
FROM products p
LEFT JOIN (order_items i JOIN orders o ON o.id = i.order_id AND o.status <> 'cancelled')
    ON i.sku = p.sku
WHERE p.sku = 'counted'
GROUP BY p.stock
"""


def _judge_orders(
    customers: Customers,
    rows: Sequence[asyncpg.Record],
    charges: dict[str, str],
    mails: Counter[str],
    verdict: Verdict,
) -> None:
    by_email: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        by_email.setdefault(row["email"], []).append(row)
    verdict.orders = len(rows)
    for wish in customers.wishes:
        placed = by_email.pop(wish.email, [])
        if len(placed) > 1:
            verdict.double.append(f"{wish.email} has {len(placed)} orders for one key")
        _judge_receipts(wish, placed, verdict)
        for row in placed:
            _judge_order(wish, row, charges.get(str(row["payment_id"])), verdict)
            told = mails[wish.email]
            if told == 0:
                verdict.lost.append(f"{wish.email} was told nothing of {row['id']}")
            verdict.told_twice += told > 1
    verdict.wrong += [f"nobody asked for the order of {email}" for email in by_email]


def _judge_receipts(wish: Wish, placed: Sequence[asyncpg.Record], verdict: Verdict) -> None:
    promised = {receipt["orderId"] for receipt in wish.receipts}
    kept = {str(row["id"]) for row in placed}
    verdict.lost += [f"{wish.email} was promised {order}" for order in promised - kept]
    if len(promised) > 1:
        verdict.double.append(f"{wish.email} was promised {len(promised)} orders for one key")


def _judge_order(wish: Wish, row: asyncpg.Record, charge: str | None, verdict: Verdict) -> None:
    who = f"{wish.email} ({row['id']})"
    ended = ("cancelled", "failed") if wish.is_declined else ("confirmed", "completed")
    if (row["status"], row["payment_status"]) != ended or row["notified_at"] is None:
        told = "told" if row["notified_at"] else "not told"
        verdict.lost.append(
            f"{who} is {row['status']}, its payment {row['payment_status']}, {told}"
        )
    asked_of_gateway = "declined" if wish.is_declined else "succeeded" if wish.is_charged else None
    if charge != asked_of_gateway:
        verdict.wrong.append(f"{who} has the charge {charge}, not {asked_of_gateway}")


async def _judge_stock(db: Any, products: Sequence[Product], verdict: Verdict) -> None:
    shelf = await db.fetchrow(_SHELF)
    at_first = products[0].stock or 0
    if shelf["stock"] + shelf["taken"] != at_first:
        verdict.wrong.append(
            f"{shelf['stock']} pieces are left and {shelf['taken']} sold, of {at_first}"
        )


def _charges(ledger: Path) -> dict[str, str]:
    """Return what became of each key at the gateway."""
    with closing(sqlite3.connect(ledger)) as book:
        return dict(book.execute("SELECT key, status FROM charges"))


def _mails(folder: Path) -> Counter[str]:
    """Return how many mails each address got."""
    return Counter(
        message_from_bytes(file.read_bytes())["X-RcptTo"] for file in folder.glob("*.eml")
    )
