"""What must hold of all orders whatever died: asked of PostgreSQL.

None of it is checked where an order goes its way: the statements there cannot break it, unless
they are wrong, or someone changed rows by hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from orderflow.db import Reads
from orderflow.db.pool import QUERIES
from orderflow.settings import Settings


@dataclass(frozen=True, slots=True)
class Invariant:
    """What a violation means, after its number, and what to do about it."""

    violated: str
    fix: str


INVARIANTS: Mapping[str, Invariant] = {
    "orders_past_their_time": Invariant(
        "orders are open for longer than they should be",
        "See that all three workers run, and what they log; `orderflow reconcile --dry-run` says "
        "what each of them waits for",
    ),
    "stray_charges": Invariant(
        "charges came for payments that had their outcome: nobody gets anything for that money",
        "`orderflow books --refund-stray` gives the money back where that is certain; where it is "
        "declined, give it back by hand, then UPDATE stray_charges SET refunded_at = now() for its "
        "transaction_id",
    ),
    "events_of_unknown_payments": Invariant(
        "events of the gateway tell of payments that are not known here",
        "Find out who else uses the gateway's account under our keys; then UPDATE gateway_events "
        "SET handled_at = now() for its event_id",
    ),
    "confirmed_without_payment": Invariant(
        "orders are confirmed and not paid",
        "Find out who changed them, and charge or cancel them by hand",
    ),
    "payment_without_order": Invariant(
        "payments were taken whose orders are not confirmed",
        "A refund may have been declined: SELECT * FROM refunds WHERE status = 'failed' tells why. "
        "Ask for it again, or give the money back by hand",
    ),
    "refunded_too_much": Invariant(
        "refunds come to more than was charged",
        "Find out who changed them, and what the gateway has of them",
    ),
    "refunds_past_their_time": Invariant(
        "refunds have no outcome since a day or more",
        "See that the order worker runs, and what it logs; the gateway may have them pending",
    ),
    "events_not_told": Invariant(
        "customers were not told what became of their orders",
        "See that the notification worker runs, and what it logs",
    ),
}

#: Open for longer is late: the workers' attempts and the reconciler take seconds to minutes.
_LATE_AFTER_S = 3_600
#: What a reconciler that runs has cancelled by then.
_LATE_AFTER_TTL_S = 600


async def violations(
    connection: asyncpg.Connection[asyncpg.Record], settings: Settings, orders: int
) -> Mapping[str, int]:
    """Return how often each invariant is violated, `orders` at most.

    Where that means to compare orders with their payments, the newest `orders` of our checkout are
    looked at.
    Raises asyncpg.PostgresError.
    """
    return _by_name(await connection.fetch(QUERIES["invariants"], *_arguments(settings, orders)))


async def count_violations(db: Reads, settings: Settings, orders: int) -> Mapping[str, int]:
    """Return what `violations` does, by a connection of the pool. Raises DatabaseUnavailable."""
    return _by_name(await db.fetch("invariants", *_arguments(settings, orders)))


def _arguments(settings: Settings, orders: int) -> tuple[int, int, UUID, bool]:
    late_after_s = _LATE_AFTER_S
    if settings.order_ttl_s is not None:
        late_after_s = settings.order_ttl_s + _LATE_AFTER_TTL_S
    # A UUIDv7 begins with its milliseconds; clocks differ by less than a minute.
    newest_id = UUID(int=int((time.time() + 60) * 1000) << 80)
    # Without a time limit, an order whose customer has to act waits for as long as that takes.
    return late_after_s, orders, newest_id, settings.order_ttl_s is None


def _by_name(rows: Iterable[asyncpg.Record]) -> Mapping[str, int]:
    return {row["invariant"]: row["violations"] for row in rows}
