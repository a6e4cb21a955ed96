"""Orders found by whatever somebody has in hand of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from orderflow.bull.queues import JobQueues
from orderflow.contract import row_id
from orderflow.db import Reads
from orderflow.operations.jobs import find_jobs
from orderflow.orders import OrderStatus, PaymentStatus, Row

#: Our own jobs are named after what they are about.
_OUR_JOB = re.compile(r"(?:payment|order-confirmation|payment-failed)-(.+)")


@dataclass(frozen=True, slots=True)
class FoundOrder:
    """An order in short, and by which of its ids it was found."""

    id: UUID
    found_by: str
    external_id: str | None
    user_id: str | None
    source: str
    status: OrderStatus
    total: Decimal
    currency: str
    payment_id: UUID
    payment_status: PaymentStatus
    created_at: datetime
    updated_at: datetime


async def find_orders(
    text: str, *, db: Reads, queues: JobQueues, limit: int = 20
) -> list[FoundOrder]:
    """Return the orders that `text` is an id of, the newest first, `limit` at most.

    It is the id of an order or payment, ours or a producer's, of a job, a user or a transaction,
    or an e-mail address. All of these are looked up by their index.
    """
    text = text.strip()
    if not text or "\x00" in text:
        return []
    jobs = await find_jobs(text, queues=queues)
    of_jobs = {job.order_id for job in jobs if job.order_id}
    if ours := _OUR_JOB.fullmatch(text):
        of_jobs.add(row_id(ours[1]))
    rows = await db.fetch(
        "search_orders", [row_id(text)], text.lower(), text, limit, sorted(of_jobs)
    )
    return list(map(_found, rows))


def _found(row: Row) -> FoundOrder:
    return FoundOrder(
        id=row["id"],
        found_by=row["found_by"],
        external_id=row["external_id"],
        user_id=row["user_id"],
        source=row["source"],
        status=OrderStatus(row["status"]),
        total=row["total"],
        currency=row["currency"],
        payment_id=row["payment_id"],
        payment_status=PaymentStatus(row["payment_status"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
