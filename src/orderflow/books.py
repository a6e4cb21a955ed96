"""The books: what the gateway has of charges and refunds, beside what we have.

The gateway lists what moved money; each entry is looked up here by its key. What we have of the
same time and is not in the list is asked about by its key before it is called missing. Put right is
only what is certain: an outcome that nobody wrote down, and a stray charge that nobody recorded.
Whether money is given back, a person decides.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.charge import count_outcome, record_if_stray, write_outcome
from orderflow.contract import PaymentMethod, gateway_key, row_id
from orderflow.db import Database
from orderflow.gateways import (
    Approved,
    Charge,
    Entry,
    EntryKind,
    Gateway,
    Refund,
    Refunded,
)
from orderflow.metrics import BOOKS_LAST_RUN
from orderflow.orders import OPEN_PAYMENT, OPEN_REFUND, PaymentStatus, RefundStatus, Row
from orderflow.refund import request_stray_refund, write_refund

log = structlog.get_logger(__name__)

#: What is younger may be on its way still.
GRACE = timedelta(minutes=10)
#: The entries of so much time are held at once.
_SLICE = timedelta(hours=1)
_PAGE_SIZE = 1_000
_STRAYS_AT_ONCE = 1_000


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
    for side in (_Charges(db, gateway), _Refunds(db, gateway)):
        async for difference in _compare(side, since, until, found):
            found.differences.append(difference)
            await _keep(difference, db)
    await db.fetch("settle_differences", begun["at"], since, until)
    BOOKS_LAST_RUN[()] = time.time()
    log.info("books compared", **found.to_json())
    return found


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


async def _keep(difference: Difference, db: Database) -> None:
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


async def _compare(
    side: _Charges | _Refunds, since: datetime, until: datetime, found: Comparison
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


class _Side:
    """What charges and refunds have in common."""

    kind: EntryKind

    def __init__(self, db: Database, gateway: Gateway) -> None:
        self._db = db
        self._gateway = gateway

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[Sequence[Entry]]:
        """Give the gateway's entries of a time, page by page."""
        page = await self._gateway.entries(self.kind, since, until)
        yield page.entries
        while page.after is not None:
            page = await self._gateway.entries(self.kind, since, until, page.after)
            yield page.entries

    async def _between(self, query: str, start: datetime, end: datetime) -> AsyncIterator[Row]:
        """Give our rows of a time; their ids begin with it."""
        first, last = _id_at(start), _id_at(end)
        after = UUID(int=first.int - 1)
        while True:
            rest_s = GRACE.total_seconds()
            rows = await self._db.fetch(query, first, last, after, _PAGE_SIZE, rest_s)
            for row in rows:
                yield row
            if len(rows) < _PAGE_SIZE:
                return
            after = rows[-1]["id"]


class _Charges(_Side):
    kind = EntryKind.CHARGE

    @staticmethod
    def count(found: Comparison, entries: int) -> None:
        found.charges += entries

    async def theirs(self, entries: Sequence[Entry]) -> list[Difference]:
        """Look up what the gateway has."""
        keyed = [entry for entry in entries if entry.key]
        rows = await self._db.fetch(
            "charges_of_payments",
            [row_id(entry.key) for entry in keyed if entry.key],
            [entry.id for entry in keyed],
        )
        ours = {keyed[row["n"] - 1].id: row for row in rows}
        found = [await self._difference(entry, ours.get(entry.id)) for entry in entries]
        return [difference for difference in found if difference is not None]

    async def _difference(self, entry: Entry, row: Row | None) -> Difference | None:
        if row is None:
            return _of_theirs(entry, DifferenceKind.UNKNOWN)
        if (row["amount"], row["currency"]) != (entry.amount, entry.currency):
            return _of_theirs(entry, DifferenceKind.AMOUNT, row["id"], row["amount"])
        if row["status"] in OPEN_PAYMENT:
            return await self._write(entry, row) if row["rest"] > GRACE else None
        if row["transaction_id"] == entry.id or row["given_back"]:
            return None
        await record_if_stray(row["id"], entry.id, self._db)
        kept = row["status"] in (PaymentStatus.COMPLETED, PaymentStatus.REFUNDED)
        kind = DifferenceKind.SECOND if kept else DifferenceKind.UNWANTED
        return _of_theirs(entry, kind, row["id"], repair="recorded as a stray charge")

    async def _write(self, entry: Entry, row: Row) -> Difference:
        outcome = Approved(entry.id)
        if await write_outcome(row["id"], outcome, self._db):
            count_outcome(outcome, PaymentMethod(row["method"]), entry.amount, entry.currency)
        return _written(entry, row["id"], row["amount"])

    async def ours(
        self, start: datetime, end: datetime, seen: Collection[str]
    ) -> AsyncIterator[Difference]:
        """Give what we have of that time, and the gateway does not."""
        async for row in self._between("charges_between", start, end):
            if row["transaction_id"] in seen:
                continue
            key = gateway_key(row["external_id"] or str(row["id"]))
            charge = Charge(
                key, row["amount"], row["currency"], PaymentMethod(row["method"]), token=None
            )
            word = await self._gateway.find(charge)
            if not (isinstance(word, Approved) and word.transaction_id == row["transaction_id"]):
                yield _of_ours(self.kind, row, row["transaction_id"], key, row["id"])


class _Refunds(_Side):
    kind = EntryKind.REFUND

    @staticmethod
    def count(found: Comparison, entries: int) -> None:
        found.refunds += entries

    async def theirs(self, entries: Sequence[Entry]) -> list[Difference]:
        """Look up what the gateway has."""
        ids = [key for entry in entries if (key := _uuid(entry.key)) is not None]
        rows = await self._db.fetch("refunds_by_id", ids)
        ours: Mapping[UUID | None, Row] = {row["id"]: row for row in rows}
        found = [await self._difference(entry, ours.get(_uuid(entry.key))) for entry in entries]
        return [difference for difference in found if difference is not None]

    async def _difference(self, entry: Entry, row: Row | None) -> Difference | None:
        if row is None:
            return _of_theirs(entry, DifferenceKind.UNKNOWN)
        if (row["amount"], row["currency"]) != (entry.amount, entry.currency):
            return _of_theirs(entry, DifferenceKind.AMOUNT, row["payment_id"], row["amount"])
        if row["status"] in OPEN_REFUND:
            return await self._write(entry, row) if row["rest"] > GRACE else None
        if row["status"] != RefundStatus.COMPLETED:
            return _of_theirs(entry, DifferenceKind.UNWANTED, row["payment_id"])
        if row["gateway_id"] != entry.id:
            return _of_theirs(entry, DifferenceKind.SECOND, row["payment_id"], row["amount"])
        return None

    async def _write(self, entry: Entry, row: Row) -> Difference:
        await write_refund(row["id"], Refunded(entry.id), self._db)
        return _written(entry, row["payment_id"], row["amount"])

    async def ours(
        self, start: datetime, end: datetime, seen: Collection[str]
    ) -> AsyncIterator[Difference]:
        """Give what we have of that time, and the gateway does not."""
        async for row in self._between("refunds_between", start, end):
            if row["gateway_id"] in seen:
                continue
            refund = Refund(
                key=str(row["id"]),
                charge_key=gateway_key(row["payment_external_id"] or str(row["payment_id"])),
                transaction_id=row["transaction_id"],
                amount=row["amount"],
                currency=row["currency"],
            )
            if await self._gateway.find_refund(refund) != Refunded(row["gateway_id"]):
                key = str(row["id"])
                yield _of_ours(self.kind, row, row["gateway_id"], key, row["payment_id"])


def _written(entry: Entry, payment_id: UUID, ours: Decimal) -> Difference:
    """Say that an outcome that nobody wrote down is written now."""
    return _of_theirs(
        entry,
        DifferenceKind.UNWRITTEN,
        payment_id,
        ours,
        repair="outcome written",
        settled=True,
    )


def _of_theirs(
    entry: Entry,
    kind: DifferenceKind,
    payment_id: UUID | None = None,
    ours: Decimal | None = None,
    *,
    repair: str | None = None,
    settled: bool = False,
) -> Difference:
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


def _of_ours(
    kind: EntryKind, row: Row, transaction_id: str, key: str, payment_id: UUID
) -> Difference:
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


def _uuid(key: str | None) -> UUID | None:
    try:
        return UUID(key or "")
    except ValueError:
        return None


def _id_at(moment: datetime) -> UUID:
    """Return the first UUIDv7 of a moment."""
    return UUID(int=int(moment.timestamp() * 1_000) << 80)
