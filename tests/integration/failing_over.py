"""A shop in full flow whose Redis fails over: orders that come in, workers, and what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.integration.conftest import checkout_body

from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.invariants import violations
from orderflow.resources import Resources
from orderflow.settings import Settings

Connection = asyncpg.Connection

#: A failover takes some seconds; this is for a machine that has other things to do, too.
PATIENCE_S = 90
_PAUSE_S = 0.02
_LONGEST_PAUSE = """
    SELECT extract(epoch FROM max(pause)) FROM (
        SELECT updated_at - lag(updated_at, 1, $1) OVER (ORDER BY updated_at) AS pause
        FROM payments WHERE status = 'completed' AND updated_at > $1) AS pauses
"""


@contextmanager
def running(settings: Settings, folder: Path, *workers: str) -> Iterator[list[Program]]:
    """Have workers run as processes, that look for lost orders every second."""
    environment = process_environment(settings) | {
        "RECONCILE_INTERVAL_MS": "1000",
        "RECONCILE_GRACE_MS": "500",
    }
    programs = [
        start_program(folder / f"{name}.log", "orderflow.worker", name, environment=environment)
        for name in workers
    ]
    try:
        for program in programs:
            wait_until(lambda p=program: "worker started" in p.log.read_text(), "a worker")  # type: ignore[misc]
        yield programs
    finally:
        for program in programs:
            program.process.kill()
            program.process.wait()


class Flow:
    """Orders that come in all the time. Each is answered, whatever Redis does."""

    def __init__(self, resources: Resources, sql: Connection) -> None:
        self._resources = resources
        self._sql = sql
        self.receipts: list[Receipt] = []
        self._is_over = False
        self._coming = asyncio.create_task(self._come_in())

    async def until(self, count: int) -> None:
        """Return when so many more were paid; say how long nothing was paid meanwhile."""
        began = await self._sql.fetchval("SELECT now()")
        paid = await self.paid() + count
        async with asyncio.timeout(PATIENCE_S):
            while await self.paid() < paid:
                await asyncio.sleep(_PAUSE_S)
                if self._coming.done():
                    self._coming.result()
        pause_s = await self._sql.fetchval(_LONGEST_PAUSE, began)
        print(f"{count} paid, with a longest pause of {pause_s:.1f} s")

    async def close(self) -> None:
        """Let no more orders come in. Raises what a customer would have seen."""
        # Not cancelled: one that is placed just now would be paid, and have no receipt.
        self._is_over = True
        await self._coming

    async def paid(self) -> int:
        query = "SELECT count(*) FROM payments WHERE status = 'completed'"
        return int(await self._sql.fetchval(query))

    async def all_paid(self) -> None:
        """Return when every order that came in was paid, and nothing is left to do."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.paid() < len(self.receipts):
                await asyncio.sleep(_PAUSE_S)
        found = await violations(self._sql, self._resources.settings, len(self.receipts))
        assert not any(found.values()), found

    async def _come_in(self) -> None:
        checkout = Checkout.model_validate(
            checkout_body(items=[{"sku": "tea-assam", "quantity": 1}])
        )
        while not self._is_over:
            self.receipts.append(
                await place_order(
                    checkout,
                    "user-1",
                    None,
                    db=self._resources.db,
                    queues=self._resources.queues,
                )
            )
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def orders(resources: Resources, sql: Connection) -> AsyncIterator[Flow]:
    """Have orders come in inside; leaving waits until each was paid, and raises what failed."""
    flow = Flow(resources, sql)
    try:
        yield flow
    finally:
        await flow.close()
    await flow.all_paid()


def charges(settings: Settings) -> int:
    """Return how many charges the gateway has made."""
    answer: Any = httpx.get(f"{settings.gateway_url}/charges", trust_env=False).json()
    return int(answer["count"])
