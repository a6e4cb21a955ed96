"""How many connections to PostgreSQL a fleet opens: DATABASE_POOL_SIZE for each process at most."""

from __future__ import annotations

import asyncio

from tests.conftest import events, start_program, wait_until
from tests.integration.conftest import checkout_body

from orderflow.checkout import place_order
from orderflow.checkout_body import Checkout

PROCESSES, SIZE, ORDERS = 6, 2, 150

_OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
"""
_LEFT = "SELECT count(*) FROM orders WHERE status <> 'confirmed'"


async def test_workers_stay_within_two_connections_each(closed_shop, resources, sql, tmp_path):
    workers = start_program(
        tmp_path / "payment.log",
        *("orderflow.worker", "payment", "--concurrency", "20", "--processes", str(PROCESSES)),
        environment=closed_shop.environment | {"DATABASE_POOL_SIZE": str(SIZE)},
    )
    await asyncio.to_thread(
        wait_until, lambda: len(events(workers, "worker started")) == PROCESSES, "all workers", 60
    )
    before = await sql.fetchval(_OPEN)
    checkout = Checkout.model_validate(checkout_body())
    for _ in range(ORDERS):
        await place_order(checkout, "user-1", None, db=resources.db, queues=resources.queues)
    most = 0
    async with asyncio.timeout(60):
        while await sql.fetchval(_LEFT):
            most = max(most, await sql.fetchval(_OPEN) - before)
            await asyncio.sleep(0.02)
    assert workers.stop() == 0
    assert SIZE < most <= PROCESSES * SIZE
