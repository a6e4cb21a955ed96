"""The sandbox gateway's books: one row an idempotency key, on disk before it is answered."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

_SCHEMA = """
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


class Ledger:
    """The charges, in SQLite. A key is kept once, whoever else asks for it at the same time."""

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

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_SCHEMA)
        return connection
