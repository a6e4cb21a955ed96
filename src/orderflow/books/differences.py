"""What the gateway and we have not alike: each difference, and the table that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import structlog

from orderflow.db import Database
from orderflow.gateways import Entry, EntryKind
from orderflow.orders import Row

log = structlog.get_logger(__name__)


class DifferenceKind(StrEnum):
    """How the two differ."""

    UNKNOWN = "unknown"  # the gateway has it, and we do not
    UNWRITTEN = "unwritten"  # its outcome was never written here
    UNWANTED = "unwanted"  # what it was for had failed here
    AMOUNT = "amount"
    SECOND = "second"  # we have another one for the same
    MISSING = "missing"  # we have it, and the gateway does not


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry of which the gateway and we have not the same, and what was done about it."""

    entry: EntryKind
    kind: DifferenceKind
    transaction_id: str
    key: str | None
    payment_id: UUID | None
    ours: Decimal | None
    theirs: Decimal | None
    currency: str
    made_at: datetime
    repair: str | None = None
    #: Whether the repair leaves nothing to be done.
    settled: bool = False


@dataclass(slots=True)
class Comparison:
    """What was compared, and every difference that was found."""

    charges: int = 0
    refunds: int = 0
    differences: list[Difference] = field(default_factory=list)

    def to_json(self) -> dict[str, int]:
        """Return the sums."""
        repaired = sum(difference.settled for difference in self.differences)
        return {
            "charges": self.charges,
            "refunds": self.refunds,
            "differences": len(self.differences) - repaired,
            "repaired": repaired,
        }


async def open_differences(*, db: Database, limit: int = 1_000) -> Sequence[Difference]:
    """Return the differences that are still there, the oldest first."""
    return [
        Difference(
            entry=EntryKind(row["entry"]),
            kind=DifferenceKind(row["kind"]),
            transaction_id=row["transaction_id"],
            key=row["key"],
            payment_id=row["payment_id"],
            ours=row["ours"],
            theirs=row["theirs"],
            currency=row["currency"],
            made_at=row["made_at"],
            repair=row["repair"],
        )
        for row in await db.fetch("open_differences", limit)
    ]


async def keep(difference: Difference, db: Database) -> None:
    """Write a difference down, and tell of it."""
    log.warning(
        "books differ",
        entry=difference.entry.value,
        kind=difference.kind.value,
        transaction_id=difference.transaction_id,
        repair=difference.repair,
    )
    await db.fetch(
        "record_difference",
        difference.kind.value,
        difference.entry.value,
        difference.transaction_id,
        difference.key,
        difference.payment_id,
        difference.ours,
        difference.theirs,
        difference.currency,
        difference.made_at,
        difference.repair,
        difference.settled,
    )


def written(entry: Entry, payment_id: UUID, ours: Decimal) -> Difference:
    """Say that an outcome that nobody wrote down is written now."""
    return of_theirs(
        entry,
        DifferenceKind.UNWRITTEN,
        payment_id,
        ours,
        repair="outcome written",
        settled=True,
    )


def of_theirs(
    entry: Entry,
    kind: DifferenceKind,
    payment_id: UUID | None = None,
    ours: Decimal | None = None,
    *,
    repair: str | None = None,
    settled: bool = False,
) -> Difference:
    """Return how an entry of the gateway's differs."""
    return Difference(
        entry=entry.kind,
        kind=kind,
        transaction_id=entry.id,
        key=entry.key,
        payment_id=payment_id,
        ours=ours,
        theirs=entry.amount,
        currency=entry.currency,
        made_at=entry.at,
        repair=repair,
        settled=settled,
    )


def of_ours(
    kind: EntryKind, row: Row, transaction_id: str, key: str, payment_id: UUID
) -> Difference:
    """Return that what we have is missing at the gateway."""
    return Difference(
        entry=kind,
        kind=DifferenceKind.MISSING,
        transaction_id=transaction_id,
        key=key,
        payment_id=payment_id,
        ours=row["amount"],
        theirs=None,
        currency=row["currency"],
        made_at=row["created_at"],
    )
