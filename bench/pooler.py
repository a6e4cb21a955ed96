"""What a PgBouncer in between costs checkouts: `python -m bench.pooler [CHECKOUTS]`.

The system's PgBouncer, in transaction mode, before a PostgreSQL of its own. Checkouts are placed
from this one process, with its jobs added to a Redis, directly and through PgBouncer in turn: 64 at
once, which share statements, and one after the other. The median of the turns is told.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from bench.servers import open_folder, open_postgres
from bench.shop import PRODUCTS, open_shop
from orderflow.checkout import place_order
from orderflow.checkout_body import Checkout
from orderflow.db.migrate import migrate
from orderflow.logs import configure_logs
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.pgbouncer import start_pgbouncer
from orderflow.sandbox.servers import free_port, own_redis, start_redis
from orderflow.settings import load_settings

_AT_ONCE, _ALONE, _TURNS = 64, 300, 5
#: Sessions of PgBouncer: twice as many as cores, as its makers advise.
_SESSIONS = 4
_ORDERS_BEFORE = 20_000


async def _place(shop: Resources) -> None:
    skus = random.sample(range(1, PRODUCTS + 1), 2)
    checkout = Checkout.model_validate(
        {
            "items": [{"sku": f"sku-{sku:04}", "quantity": 1} for sku in skus],
            "paymentMethod": "card",
            "paymentToken": "tok_approve",
            "contact": {"email": "ada@shop.example"},
        }
    )
    await place_order(checkout, "user-1", None, db=shop.db, queues=shop.queues)


async def _rate(shop: Resources, checkouts: int) -> float:
    left = iter(range(checkouts))

    async def one_after_the_other() -> None:
        for _ in left:
            await _place(shop)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    return checkouts / (time.perf_counter() - began)


async def _wait_ms(shop: Resources) -> float:
    waits = []
    for _ in range(_ALONE):
        began = time.perf_counter()
        await _place(shop)
        waits.append((time.perf_counter() - began) * 1_000)
    return statistics.median(waits)


async def _compare(ways: Mapping[str, Mapping[str, Any]], checkouts: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(_TURNS):
        for way, given in ways.items():
            async with open_resources(load_settings(**given)) as shop:
                await _rate(shop, checkouts // 10)
                found[way].append((await _rate(shop, checkouts), await _wait_ms(shop)))
    for way, turns in found.items():
        rate, wait_ms = map(statistics.median, zip(*turns, strict=True))
        print(f"{way}: {rate:,.0f} checkouts/s at {_AT_ONCE} at once; one alone {wait_ms:.2f} ms")


def main() -> None:
    """Measure, and print what was found."""
    checkouts = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    configure_logs("json", "warning")
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        redis = start_redis(folder / "redis", free_port(), executable=own_redis())
        stack.callback(redis.stop)
        postgres = stack.enter_context(open_postgres(folder / "postgres"))
        asyncio.run(migrate(postgres.url))
        open_shop(postgres.url, _ORDERS_BEFORE)
        pooler = start_pgbouncer(folder, free_port(), postgres, _SESSIONS, mode="transaction")
        stack.callback(pooler.stop)
        both = {"redis_url": redis.url, "redis_timeout_ms": 60_000, "queue_depth_limit": 10**7}
        ways = {
            "direct": {"database_url": postgres.url},
            "through PgBouncer": {
                "database_url": f"{pooler.url}/postgres",
                "database_pooler": "transaction",
            },
        }
        asyncio.run(_compare({way: both | given for way, given in ways.items()}, checkouts))


if __name__ == "__main__":
    main()
