"""The two kinds of entries, charges and refunds: what each side has, looked up at the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from orderflow.books.differences import (
    Comparison,
    Difference,
    DifferenceKind,
    of_ours,
    of_theirs,
    written,
)
from orderflow.charge import record_if_stray, write_outcome
from orderflow.contract import PaymentMethod, gateway_key, row_id
from orderflow.db import Database
from orderflow.gateways import Approved, Charge, Entry, EntryKind, Gateway, Refund, Refunded
from orderflow.orders import OPEN_PAYMENT, OPEN_REFUND, PaymentStatus, RefundStatus, Row
from orderflow.refund import write_refund

#: What is younger may be on its way still.
GRACE = timedelta(minutes=10)
_PAGE_SIZE = 1_000


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


class Charges(_Side):
    """Charges, ours and the gateway's."""

    kind = EntryKind.CHARGE

    @staticmethod
    def count(found: Comparison, entries: int) -> None:
        """Count entries of the gateway's."""
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
            return of_theirs(entry, DifferenceKind.UNKNOWN)
        if (row["amount"], row["currency"]) != (entry.amount, entry.currency):
            return of_theirs(entry, DifferenceKind.AMOUNT, row["id"], row["amount"])
        if row["status"] in OPEN_PAYMENT:
            return await self._write(entry, row) if row["rest"] > GRACE else None
        if row["transaction_id"] == entry.id or row["given_back"]:
            return None
        await record_if_stray(row["id"], entry.id, self._db)
        kept = row["status"] in (PaymentStatus.COMPLETED, PaymentStatus.REFUNDED)
        kind = DifferenceKind.SECOND if kept else DifferenceKind.UNWANTED
        return of_theirs(entry, kind, row["id"], repair="recorded as a stray charge")

    async def _write(self, entry: Entry, row: Row) -> Difference:
        paid = Approved(entry.id)
        await write_outcome(
            row["id"], paid, row["method"], entry.amount, entry.currency, db=self._db
        )
        return written(entry, row["id"], row["amount"])

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
                yield of_ours(self.kind, row, row["transaction_id"], key, row["id"])


class Refunds(_Side):
    """Refunds, ours and the gateway's."""

    kind = EntryKind.REFUND

    @staticmethod
    def count(found: Comparison, entries: int) -> None:
        """Count entries of the gateway's."""
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
            return of_theirs(entry, DifferenceKind.UNKNOWN)
        if (row["amount"], row["currency"]) != (entry.amount, entry.currency):
            return of_theirs(entry, DifferenceKind.AMOUNT, row["payment_id"], row["amount"])
        if row["status"] in OPEN_REFUND:
            return await self._write(entry, row) if row["rest"] > GRACE else None
        if row["status"] != RefundStatus.COMPLETED:
            return of_theirs(entry, DifferenceKind.UNWANTED, row["payment_id"])
        if row["gateway_id"] != entry.id:
            return of_theirs(entry, DifferenceKind.SECOND, row["payment_id"], row["amount"])
        return None

    async def _write(self, entry: Entry, row: Row) -> Difference:
        await write_refund(row["id"], Refunded(entry.id), self._db)
        return written(entry, row["payment_id"], row["amount"])

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
                yield of_ours(self.kind, row, row["gateway_id"], key, row["payment_id"])


def _uuid(key: str | None) -> UUID | None:
    try:
        return UUID(key or "")
    except ValueError:
        return None


def _id_at(moment: datetime) -> UUID:
    """Return the first UUIDv7 of a moment."""
    return UUID(int=int(moment.timestamp() * 1_000) << 80)
