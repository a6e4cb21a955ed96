"""Stray charges: money that was taken for nothing, and is given back where that is certain."""

from __future__ import annotations

from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.refund import request_stray_refund

_STRAYS_AT_ONCE = 1_000


async def refund_strays(*, db: Database, queues: JobQueues) -> int:
    """Have each stray charge of a cancelled order given back; return how many that begins.

    Nobody gets anything for that money, so it is certain whose it is. A second charge of an order
    that is kept is left to a person.
    """
    begun = 0
    for stray in await db.fetch("stray_of_cancelled", _STRAYS_AT_ONCE):
        begun += await request_stray_refund(
            stray["payment_id"], stray["transaction_id"], db=db, queues=queues
        )
    return begun
