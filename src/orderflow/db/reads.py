"""Named queries, run one by one or together with whoever asks for the same at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from orderflow.db.batcher import Batcher
from orderflow.metrics import BATCH_SIZE

Args = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ReplicaHealth:
    """How a replica was when it was looked at last.

    `behind_s` is None where that is not known; `trouble` says why it is not used, or nothing.
    """

    behind_s: float | None
    trouble: str | None

    @property
    def is_used(self) -> bool:
        """Whether reads go to it."""
        return self.trouble is None


def sure(row: asyncpg.Record | None) -> asyncpg.Record:
    """Return the row of a query that always has one. Raises RuntimeError if it has none."""
    if row is None:
        raise RuntimeError("PostgreSQL answered without a row")
    return row


class Reads(ABC):
    """Where named queries are run: in the database, or those that only read at a replica of it.

    Every method raises DatabaseUnavailable when PostgreSQL is away, and DatabaseRefused when it
    answers with an error.
    """

    #: How the replica is that is read in its place, or None where there is none.
    replica: ReplicaHealth | None = None

    def __init__(self) -> None:
        self._batchers: dict[tuple[Any, ...], Batcher[Args, asyncpg.Record | None]] = {}

    @abstractmethod
    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""

    @abstractmethod
    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""

    async def batch(
        self, query: str, *args: Any, same: tuple[Any, ...] = (), apart: Hashable = None
    ) -> asyncpg.Record | None:
        """Run the named query together with whoever asks for it now; return the row of this call.

        The query takes each argument as an array, and returns with each row, as `n`, which call
        of the batch it belongs to, counted from 1. What is the `same` for all comes last, as it
        is. Two calls that are to be kept `apart` by the same value never share a batch, since one
        statement cannot write a row twice; unless told, that is the first argument.
        """
        batcher = self._batchers.get((query, same))
        if batcher is None:
            batcher = self._batchers[query, same] = Batcher(partial(self._batch, query, same))
        return await batcher.do(args, args[0] if apart is None else apart)

    async def _batch(
        self, query: str, same: tuple[Any, ...], calls: Sequence[Args]
    ) -> Sequence[asyncpg.Record | None]:
        BATCH_SIZE.observe(len(calls), (query,))
        rows: list[asyncpg.Record | None] = [None] * len(calls)
        for row in await self.fetch(query, *zip(*calls, strict=True), *same):
            rows[row["n"] - 1] = row
        return rows
