"""Both books are gone through, an hour after the other, and every difference is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta

import structlog

from orderflow.books.differences import Comparison, Difference, keep
from orderflow.books.sides import Charges, Refunds
from orderflow.db import Database
from orderflow.gateways import Gateway
from orderflow.metrics import BOOKS_LAST_RUN

log = structlog.get_logger(__name__)

#: The entries of so much time are held at once.
_SLICE = timedelta(hours=1)


async def compare_books(
    since: datetime, until: datetime, *, db: Database, gateway: Gateway
) -> Comparison:
    """Compare what was made from `since` on and before `until`, and keep each difference.

    Raises GatewayUnavailable, GatewayRefused or DatabaseUnavailable; what was put right until then
    stays so, and the next comparison finds the rest.
    """
    begun = await db.fetchrow("begin_books")
    if begun is None:
        raise LookupError("PostgreSQL has no time")
    found = Comparison()
    for side in (Charges(db, gateway), Refunds(db, gateway)):
        async for difference in _compare(side, since, until, found):
            found.differences.append(difference)
            await keep(difference, db)
    await db.fetch("settle_differences", begun["at"], since, until)
    BOOKS_LAST_RUN[()] = time.time()
    log.info("books compared", **found.to_json())
    return found


async def _compare(
    side: Charges | Refunds, since: datetime, until: datetime, found: Comparison
) -> AsyncIterator[Difference]:
    """Give the differences of one kind of entry, an hour after the other."""
    seen_before: set[str] = set()
    last: tuple[datetime, datetime] | None = None
    for start, end in _slices(since, until):
        seen: set[str] = set()
        async for entries in side.entries(start, end):
            seen.update(entry.id for entry in entries)
            side.count(found, len(entries))
            for difference in await side.theirs(entries):
                yield difference
        if last is not None:
            # What we began in one hour the gateway may have made in the next.
            async for difference in side.ours(*last, seen_before | seen):
                yield difference
        seen_before, last = seen, (start, end)
    if last is not None:
        async for difference in side.ours(*last, seen_before):
            yield difference


def _slices(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    start = since
    while start < until:
        end = min(start + _SLICE, until)
        yield start, end
        start = end
