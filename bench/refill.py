"""How long the reconciler takes to queue all orders of a shop again when Redis was emptied.

    python -m bench.refill --orders 1000000

It starts a Redis and a PostgreSQL of its own, writes orders that wait to be paid, and does one run
of the reconciler on the empty Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

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
    with open_lab("warning", postgres=True) as lab:
        print(f"writing {orders:,} orders", flush=True)
        add_pending_orders(lab.url_of(SHOP), orders)
        with lab.place_on(SHOP) as place:
            return _measure(lab, place, orders)


def _measure(lab: Lab, place: Place, orders: int) -> int:
    redis_before_s = lab.redis_cpu_s()
    # In a process of its own, whose memory is all that the run takes.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        run = pool.submit(_run, place, orders).result()
    redis_us = (lab.redis_cpu_s() - redis_before_s) / orders * 1e6
    queued = lab.redis.zcard(f"{place.prefix}:{QueueName.PAYMENTS}:prioritized")
    if queued != orders or run.jobs_added != orders:
        raise RowAborted(f"{queued} of {orders} jobs are queued, {run.jobs_added} were added")
    print(
        f"{orders:,} orders in {run.took_s:.1f} s: {orders / run.took_s:,.0f} orders/s; "
        f"CPU an order: {run.cpu_s / orders * 1e6:.0f} us, and {redis_us:.0f} us in Redis; "
        f"peak RSS {run.peak_mib:.0f} MiB"
    )
    return 0


@dataclass(frozen=True)
class _Measured:
    """What one run took."""

    jobs_added: int
    took_s: float
    cpu_s: float
    peak_mib: float


def _run(place: Place, orders: int) -> _Measured:
    configure_logs("json", "warning")
    started_s, cpu_before_s = time.monotonic(), time.process_time()
    counts = asyncio.run(_refill(place, orders))
    took_s, cpu_s = time.monotonic() - started_s, time.process_time() - cpu_before_s
    return _Measured(counts.jobs_added, took_s, cpu_s, _peak_mib())


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


def _peak_mib() -> float:
    # Not getrusage: a child begins there with what its parent had.
    status = Path("/proc/self/status").read_text("ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
