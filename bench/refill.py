"""How long the reconciler takes to queue all orders of a shop again when Redis was emptied.

    python -m bench.refill --orders 1000000

It starts a Redis and a PostgreSQL of its own, writes orders that wait to be paid, and does one run
of the reconciler on the empty Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time

from bench.errors import RowAborted
from bench.servers import SHOP, Lab, Place, open_lab
from bench.shop import add_pending_orders
from orderflow.contract import QueueName
from orderflow.logs import configure_logs
from orderflow.reconcile import Counts, run_once
from orderflow.resources import open_resources
from orderflow.settings import load_settings


def main() -> int:
    """Measure, and say what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.refill", description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000, help="how many (default 1000000)")
    orders = parser.parse_args().orders
    configure_logs("json", "warning")
    with open_lab("warning", postgres=True) as lab:
        print(f"writing {orders:,} orders", flush=True)
        add_pending_orders(lab.url_of(SHOP), orders)
        with lab.place_on(SHOP) as place:
            return _measure(lab, place, orders)


def _measure(lab: Lab, place: Place, orders: int) -> int:
    before = _peak_bytes()
    started = time.monotonic()
    counts = asyncio.run(_refill(place, orders))
    took_s = time.monotonic() - started
    queued = lab.redis.zcard(f"{place.prefix}:{QueueName.PAYMENTS}:prioritized")
    if queued != orders or counts.jobs_added != orders:
        raise RowAborted(f"{queued} of {orders} jobs are queued: {counts}")
    print(
        f"{orders:,} orders in {took_s:.1f} s: {orders / took_s:,.0f} orders/s; "
        f"peak RSS {_peak_bytes() / 2**20:.0f} MiB, {(_peak_bytes() - before) / 2**20:.0f} more "
        f"than before the run"
    )
    return 0


async def _refill(place: Place, orders: int) -> Counts:
    settings = load_settings(
        redis_url=place.redis_url,
        database_url=place.database_url,
        queue_prefix=place.prefix,
        queue_depth_limit=2 * orders,
    )
    async with open_resources(settings) as resources:
        return await run_once(
            db=resources.db, queues=resources.queues, gateway=resources.gateway, grace_ms=0
        )


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
