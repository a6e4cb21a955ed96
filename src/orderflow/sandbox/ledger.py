"""The sandbox gateway's books: one row an idempotency key, on disk before it is answered."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

_CHARGES = """
CREATE TABLE IF NOT EXISTS charges (
    key TEXT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL,
    amount TEXT NOT NULL,
    currency TEXT NOT NULL,
    method TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'declined')),
    decline_reason TEXT CHECK ((decline_reason IS NULL) = (status = 'succeeded')),
    created_at TEXT NOT NULL
) WITHOUT ROWID
"""
_REFUNDS = """
CREATE TABLE IF NOT EXISTS refunds (
    key TEXT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL,
    charge_id TEXT NOT NULL,
    amount TEXT NOT NULL,
    currency TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'pending', 'declined')),
    decline_reason TEXT CHECK ((decline_reason IS NULL) = (status <> 'declined')),
    created_at TEXT NOT NULL
) WITHOUT ROWID
"""
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS charges_by_id ON charges (id)",
    "CREATE INDEX IF NOT EXISTS charges_by_time ON charges (created_at, id)",
    "CREATE INDEX IF NOT EXISTS refunds_of_charge ON refunds (charge_id)",
    "CREATE INDEX IF NOT EXISTS refunds_by_time ON refunds (created_at, id)",
)
_PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Charge:
    """What became of one idempotency key; the fields are the ledger's columns in order."""

    key: str
    id: str
    amount: str
    currency: str
    method: str
    status: Literal["succeeded", "declined"]
    decline_reason: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Refund:
    """What became of one refund's key; the fields are the ledger's columns in order."""

    key: str
    id: str
    charge_id: str
    amount: str
    currency: str
    status: Literal["succeeded", "pending", "declined"]
    decline_reason: str | None
    created_at: str


def written(moment: datetime) -> str:
    """Return a time as the ledger has it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Ledger:
    """Charges and refunds, in SQLite. A key is kept once, whoever else asks for it meanwhile."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._reads = self._connect(path)
        self._writes = self._connect(path)
        self._writer = ThreadPoolExecutor(1, "ledger-writer")
        self._waiting: dict[str, Charge] = {}
        self._turn = asyncio.Lock()

    async def keep(self, charge: Charge) -> Charge:
        """Return what is on disk for the key: `charge` itself, or the one that came first."""
        # Whoever has the turn writes for all who wait, so that they share one wait for the disk,
        # and a thread does the waiting. Reads stay here: one row is quicker than the hop.
        self._waiting[charge.id] = charge
        async with self._turn:
            if charge.id in self._waiting:
                batch, self._waiting = self._waiting, {}
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._writer, self._insert, list(batch.values()))
        kept = self.find(charge.key)
        if kept is None:
            raise sqlite3.OperationalError("the batch that this charge was in was not written")
        return kept

    def find(self, key: str) -> Charge | None:
        """Return what became of `key`, or None if it was never charged or declined."""
        row = self._reads.execute("SELECT * FROM charges WHERE key = ?", (key,)).fetchone()
        return None if row is None else Charge(*row)

    def find_charge(self, charge_id: str) -> Charge | None:
        """Return the charge with this id, or None."""
        row = self._reads.execute("SELECT * FROM charges WHERE id = ?", (charge_id,)).fetchone()
        return None if row is None else Charge(*row)

    def find_refund(self, key: str) -> Refund | None:
        """Return what became of a refund's key, or None."""
        row = self._reads.execute("SELECT * FROM refunds WHERE key = ?", (key,)).fetchone()
        return None if row is None else Refund(*row)

    async def keep_refund(self, refund: Refund, charged: Decimal) -> Refund | None:
        """Return what is on disk for the key: `refund` itself, or the one that came first.

        None if with those that were not declined it is more than was `charged`: nothing is kept.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._insert_refund, refund, charged)
        return self.find_refund(refund.key)

    async def complete_refund(self, key: str) -> None:
        """Let a refund that is pending succeed."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._complete_refund, key)

    def books(self, kind: str, since: str, until: str, after: str) -> dict[str, Any]:
        """Return a page of what moved money in that time; `after` is the place of the last one."""
        charge_id = "id" if kind == "charges" else "charge_id"
        rows = self._reads.execute(
            f'SELECT id, {charge_id} AS "chargeId", key, amount, currency, created_at AS at'  # noqa: S608 - one of our two tables
            f" FROM {kind} WHERE status = 'succeeded' AND created_at >= ? AND created_at < ?"
            " AND created_at || id > ? ORDER BY created_at, id LIMIT ?",
            (since, until, after, _PAGE_SIZE),
        ).fetchall()
        last = rows[-1]["at"] + rows[-1]["id"] if len(rows) == _PAGE_SIZE else None
        return {"entries": [dict(row) for row in rows], "after": last}

    def count(self, first: str, last: str) -> dict[str, Any]:
        """Return how many charges the keys from `first` to `last` have, and the first 1,000."""
        counts = "count(*) AS count, count(*) FILTER (WHERE status = 'succeeded') AS succeeded"
        some = "FROM charges WHERE key BETWEEN ? AND ?"
        pages = f"SELECT key, {counts} {some} GROUP BY key ORDER BY key LIMIT 1000"
        total = self._reads.execute(f"SELECT {counts} {some}", (first, last)).fetchone()
        by_key = self._reads.execute(pages, (first, last))
        return {**dict(total), "charges": [dict(row) for row in by_key]}

    def close(self) -> None:
        """Write what still waits, and let go of the file."""
        self._writer.shutdown()
        self._reads.close()
        self._writes.close()

    def _insert(self, charges: list[Charge]) -> None:
        with self._writes:
            self._writes.executemany(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                [astuple(charge) for charge in charges],
            )

    def _insert_refund(self, refund: Refund, charged: Decimal) -> None:
        # One thread writes, so that nothing comes between the sum and the row.
        with self._writes:
            given_back = self._writes.execute(
                "SELECT amount FROM refunds WHERE charge_id = ? AND status <> 'declined'",
                (refund.charge_id,),
            ).fetchall()
            total = sum((Decimal(amount) for (amount,) in given_back), Decimal(refund.amount))
            if refund.status == "declined" or total <= charged:
                self._writes.execute(
                    "INSERT INTO refunds VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (key) DO NOTHING",
                    astuple(refund),
                )

    def _complete_refund(self, key: str) -> None:
        with self._writes:
            self._writes.execute(
                "UPDATE refunds SET status = 'succeeded' WHERE key = ? AND status = 'pending'",
                (key,),
            )

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in (_CHARGES, _REFUNDS, *_INDEXES):
            connection.execute(statement)
        return connection
