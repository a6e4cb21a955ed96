"""Rows about the workers with PostgreSQL: payments, whole orders, memory, the size of a shop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.backlog import (
    NOTIFICATIONS,
    PAYMENTS,
    SETTLED,
    Backlog,
    check_settled,
    make_backlog,
    our_worker,
    records_folder,
    working,
)
from bench.checkout_rows import FASTIFY, OUR_API, check_written, running_api
from bench.errors import RowAborted
from bench.processes import Program, node, python
from bench.rows import Kind, Measure, MeasureSide, Options, Row, Side, Values, cost, rate
from bench.servers import SHOP, SHOP_ORDERS, Lab, Place, QueueWatch, fetch, open_lab
from bench.shop import add_settled_orders
from bench.watch import check_done, jobs_per_second

_ORDERS = 15_000
_STOCK_ORDERS = 4_000
_CONCURRENCY = 50

#: Makes the commands of the workers `payment` and `notification`, given the concurrency and a
#: folder for what they record.
WorkerOf = Callable[[str, int, Path], list[str]]


def _node_worker(name: str, concurrency: int, folder: Path) -> list[str]:
    return node(f"{name}.mjs", str(concurrency), str(folder / f"{name}.log"))


def _stock_worker(name: str, concurrency: int, folder: Path) -> list[str]:
    records = str(folder / f"{name}.log")
    return python("bench.peers.stock_orders", name, str(concurrency), records)


def _pay(lab: Lab, backlog: Backlog, worker: WorkerOf) -> float:
    """Return the payments per second of one worker process."""
    orders = len(backlog.jobs)
    with lab.place(backlog.database) as place:
        folder = records_folder(lab, place)
        with working(lab, place, backlog, [worker("payment", _CONCURRENCY, folder)]) as programs:
            watch = QueueWatch(lab.redis, place.prefix, PAYMENTS)
            found = jobs_per_second(watch, orders, programs)
            check_done(watch, orders, programs)
            waiting = QueueWatch(lab.redis, place.prefix, NOTIFICATIONS).waiting()
            if waiting != orders:
                raise RowAborted(f"{waiting} notification jobs were added for {orders} orders")
        check_settled(place, folder, orders, before=SHOP_ORDERS, told=False)
        return found


def _pay_and_tell(lab: Lab, backlog: Backlog, worker: WorkerOf) -> float:
    """Return the orders per second of two worker processes, one of each kind."""
    orders = len(backlog.jobs)
    with lab.place(backlog.database) as place:
        folder = records_folder(lab, place)
        commands = [worker(name, _CONCURRENCY, folder) for name in ("payment", "notification")]
        with working(lab, place, backlog, commands) as programs:
            told = QueueWatch(lab.redis, place.prefix, NOTIFICATIONS)
            found = jobs_per_second(told, orders, programs)
            check_done(told, orders, programs)
            check_done(QueueWatch(lab.redis, place.prefix, PAYMENTS), orders, programs)
        check_settled(place, folder, orders, before=SHOP_ORDERS, told=True)
        return found


@contextmanager
def _open_orders(
    options: Options,
    *,
    peer: WorkerOf,
    orders: int,
    work: Callable[[Lab, Backlog, WorkerOf], float],
) -> Iterator[MeasureSide]:
    with open_lab(options.log_level, postgres=True) as lab:
        backlog = make_backlog(lab, options.count(orders))
        yield lambda side: {"": work(lab, backlog, peer if side is Side.PEER else our_worker)}


#: What a busy process holds is looked at so often.
_LOOK_EVERY_S = 0.05
_MANY = 200


@contextmanager
def _watching_memory(program: Program) -> Iterator[list[int]]:
    """Give a list that fills with what the program holds, in bytes."""
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_LOOK_EVERY_S):
            seen.append(program.resident_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


@contextmanager
def _open_memory(options: Options) -> Iterator[MeasureSide]:
    with open_lab(options.log_level, postgres=True) as lab:
        backlog = make_backlog(lab, options.count(_ORDERS))

        def measure(side: Side) -> Values:
            peer = side is Side.PEER
            return {
                "-worker": _worker_bytes(lab, backlog, _node_worker if peer else our_worker) / 1e6,
                "-api": _api_bytes(lab, FASTIFY if peer else OUR_API, options) / 1e6,
            }

        yield measure


def _worker_bytes(lab: Lab, backlog: Backlog, worker: WorkerOf) -> int:
    """Return the most that a payment worker holds while it works on many jobs at once."""
    orders = len(backlog.jobs)
    with lab.place(backlog.database) as place:
        command = worker("payment", _MANY, records_folder(lab, place))
        with working(lab, place, backlog, [command]) as programs:
            with _watching_memory(programs[0]) as seen:
                watch = QueueWatch(lab.redis, place.prefix, PAYMENTS)
                jobs_per_second(watch, orders, programs)
            check_done(watch, orders, programs)
        return max(seen)


def _api_bytes(lab: Lab, command: Sequence[str], options: Options) -> int:
    """Return the most that an API holds while it answers all that it can."""
    with lab.place() as place, running_api(lab, place, command) as api:
        with _watching_memory(api.program) as seen:
            loaded = api.closed(options)
        check_written(api, loaded.answered)
        return max(seen)


_BIG = "big"


@contextmanager
def _open_size(options: Options) -> Iterator[MeasureSide]:
    size = options.count(options.size)
    with open_lab(options.log_level, postgres=True) as lab:
        lab.sql(f"CREATE DATABASE {_BIG} TEMPLATE {SHOP} STRATEGY file_copy")
        add_settled_orders(lab.url_of(_BIG), size - SHOP_ORDERS, _tell)

        def measure(side: Side) -> Values:
            with lab.place() if side is Side.PEER else lab.place_on(_BIG) as place:
                return {"": _cost_of_order_ms(lab, place, options)}

        yield measure


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def _cost_of_order_ms(lab: Lab, place: Place, options: Options) -> float:
    """Return the time an order takes of the API and of the payment worker, each on its own."""
    settled = int(fetch(place.database_url, SETTLED, 0)[0]["paid"])
    with running_api(lab, place, OUR_API) as api:
        loaded = api.closed(options)
        check_written(api, loaded.answered)
    folder = records_folder(lab, place)
    worker = our_worker("payment", _CONCURRENCY, folder)
    with lab.running("worker", worker, place.environment()) as program:
        watch = QueueWatch(lab.redis, place.prefix, PAYMENTS)
        paid_rate = jobs_per_second(watch, loaded.answered, [program])
        check_done(watch, loaded.answered, [program])
    paid = int(fetch(place.database_url, SETTLED, settled)[0]["paid"])
    if paid != loaded.answered:
        raise RowAborted(f"{loaded.answered} orders were answered, {paid} were paid")
    return 1000 / loaded.rate + 1000 / paid_rate


_NODE = "Node bullmq 6.7 and pg"
_STOCK = "stock Python bullmq and asyncpg"
_OURS = "orderflow workers"

ORDER_ROWS = [
    Row(
        "payment",
        _NODE,
        _OURS,
        [rate("payment", "orders/s", 3, 5)],
        partial(_open_orders, peer=_node_worker, orders=_ORDERS, work=_pay),
    ),
    Row(
        "order",
        _NODE,
        _OURS,
        [rate("order", "orders/s", 3, 5)],
        partial(_open_orders, peer=_node_worker, orders=_ORDERS, work=_pay_and_tell),
    ),
    Row(
        "order-stock",
        _STOCK,
        _OURS,
        [rate("order-stock", "orders/s", 5, 8)],
        partial(_open_orders, peer=_stock_worker, orders=_STOCK_ORDERS, work=_pay_and_tell),
    ),
    Row(
        "memory",
        "Node, for comparison",
        "orderflow",
        [
            Measure("memory-worker", "MB", Kind.LIMIT, 120, 120),
            Measure("memory-api", "MB", Kind.LIMIT, 150, 150),
        ],
        _open_memory,
    ),
    Row(
        "size",
        f"orderflow on {SHOP_ORDERS:,} orders",
        "orderflow on SIZE orders",
        [cost("size", "ms/order", 1.2, 1.05)],
        _open_size,
    ),
]
