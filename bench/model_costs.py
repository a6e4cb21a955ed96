"""What the model is fed with, and held against: costs of an order, and rates, measured here.

A cost is measured twice, with few jobs at once and with many. The one has small batches and the
other large ones, so that what an order costs and what a batch costs can be told apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from bench.backlog import (
    NOTIFICATIONS,
    PAYMENTS,
    Backlog,
    check_settled,
    make_backlog,
    our_worker,
    records_folder,
    working,
)
from bench.checkout_rows import OUR_API, running_api
from bench.model_shop import StageCosts
from bench.processes import Program
from bench.rows import Options
from bench.servers import (
    POSTGRES_SETTINGS,
    SHOP_ORDERS,
    Lab,
    Place,
    QueueWatch,
    add_jobs,
    open_lab,
)
from bench.watch import check_done, wait_for

#: Jobs, or requests, at once.
_FEW, _MANY = 4, 64
#: Slots of each worker whose rate is held against the model.
SLOTS = 50
_WARM_UP = 0.1


@contextmanager
def open_model_lab() -> Iterator[Lab]:
    """Give servers as the benchmarks have them, which also time each flush of the log."""
    settings = POSTGRES_SETTINGS | {"track_wal_io_timing": "on"}
    with open_lab("warning", postgres=True, settings=settings) as lab:
        yield lab


@dataclass(frozen=True)
class _Sample:
    """What an order took: seconds of a core, reads of Redis, statements of PostgreSQL."""

    python_s: float
    redis_s: float
    postgres_s: float
    reads: float
    statements: float


def measure_costs(orders: int) -> dict[str, Any]:
    """Return what `Costs.read` reads, with the samples that it comes from."""
    with open_model_lab() as lab:
        backlog = make_backlog(lab, orders)
        flushes_before = _flushes(lab)
        samples: dict[str, list[_Sample]] = {}
        for slots in (_FEW, _MANY):
            for stage, sample in _measure_workers(lab, backlog, slots).items():
                samples.setdefault(stage, []).append(sample)
            flushes = _flushes(lab)
            flush_s = (flushes[1] - flushes_before[1]) / (flushes[0] - flushes_before[0])
            flushes_before = flushes
        samples["checkout"] = [_measure_api(lab, connections) for connections in (_FEW, _MANY)]
    return {
        "stages": {stage: asdict(_apart(*pair)) for stage, pair in samples.items()},
        "redis_turn_s": statistics.median(_turn_s(*pair) for pair in samples.values()),
        "flush_s": flush_s,
        "samples": {stage: [asdict(one) for one in pair] for stage, pair in samples.items()},
    }


def _apart(few: _Sample, many: _Sample) -> StageCosts:
    """Tell what an order costs from what a batch costs."""
    python = _split(few.python_s, many.python_s, few.statements, many.statements)
    redis_s, _ = _split(few.redis_s, many.redis_s, few.reads, many.reads)
    postgres = _split(few.postgres_s, many.postgres_s, few.statements, many.statements)
    return StageCosts(*python, redis_s, *postgres)


def _turn_s(few: _Sample, many: _Sample) -> float:
    """Tell what Redis takes for a turn."""
    return _split(few.redis_s, many.redis_s, few.reads, many.reads)[1]


def _split(few_s: float, many_s: float, few: float, many: float) -> tuple[float, float]:
    """Return what an order and a batch cost, of two samples with so many batches an order."""
    # Nothing costs less than nothing, whatever the noise.
    batch_s = max(0.0, (few_s - many_s) / (few - many))
    return max(0.0, many_s - batch_s * many), batch_s


def _flushes(lab: Lab) -> tuple[float, float]:
    """Return how many flushes of the log there were, and how many seconds they took."""
    [[count, took_ms]] = lab.sql(
        "SELECT sum(fsyncs), sum(fsync_time) FROM pg_stat_io WHERE object = 'wal'"
    )
    return float(count), float(took_ms) / 1000


def _measure_workers(lab: Lab, backlog: Backlog, slots: int) -> dict[str, _Sample]:
    """Let one payment worker work, and then one notification worker on what it left."""
    orders = len(backlog.jobs)
    with lab.place(backlog.database) as place:
        folder = records_folder(lab, place)
        add_jobs(place, PAYMENTS, backlog.jobs)
        samples = {}
        for name, queue in (("payment", PAYMENTS), ("notification", NOTIFICATIONS)):
            watch = QueueWatch(lab.redis, place.prefix, queue)
            command = our_worker(name, slots, folder)
            samples[name] = _measure_worker(lab, place, command, watch, orders)
        check_settled(place, folder, orders, before=SHOP_ORDERS, told=True)
        return samples


def _measure_worker(
    lab: Lab, place: Place, command: list[str], watch: QueueWatch, orders: int
) -> _Sample:
    before = _statements(lab, place)
    with lab.running("worker", command, place.environment()) as program:
        first, _ = wait_for(watch, int(orders * _WARM_UP), [program])
        computed = _so_far(lab, program)
        last, _ = wait_for(watch, orders, [program])
        took = _so_far(lab, program)
        check_done(watch, orders, [program])
    # The program has ended: PostgreSQL counts what a session did at the end of it.
    statements = (_statements(lab, place) - before) / orders
    each = [(now - then) / (last - first) for now, then in zip(took, computed, strict=True)]
    return _Sample(*each, statements)


def _measure_api(lab: Lab, connections: int) -> _Sample:
    """Load one process of the API with so many connections."""
    options = Options(pairs=1, quick=False, size=0, log_level="warning")
    with lab.place() as place:
        before = _statements(lab, place)
        with running_api(lab, place, OUR_API) as api:
            computed = _so_far(lab, api.program)
            answered = api.closed(options, connections).answered
            took = _so_far(lab, api.program)
        statements = (_statements(lab, place) - before) / answered
    each = [(now - then) / answered for now, then in zip(took, computed, strict=True)]
    return _Sample(*each, statements)


def _statements(lab: Lab, place: Place) -> int:
    """Return how many transactions were committed in a database."""
    database = place.database_url.rpartition("/")[2]
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1"
    return int(lab.sql(query, database)[0][0])


def _so_far(lab: Lab, program: Program) -> tuple[float, ...]:
    """Return what each has computed so far, and how often Redis has read."""
    reads = float(lab.redis.info("stats")["total_reads_processed"])
    return program.cpu_s, lab.redis_cpu_s(), lab.postgres_cpu_s(), reads


def measure_rate(lab: Lab, backlog: Backlog, payers: int, tellers: int) -> float:
    """Return the orders a second of so many payment and notification processes."""
    orders = len(backlog.jobs)
    with lab.place(backlog.database) as place:
        folder = records_folder(lab, place)
        names = ["payment"] * payers + ["notification"] * tellers
        commands = [our_worker(name, SLOTS, folder) for name in names]
        with working(lab, place, backlog, commands) as programs:
            watch = QueueWatch(lab.redis, place.prefix, NOTIFICATIONS if tellers else PAYMENTS)
            first, started_s = wait_for(watch, int(orders * _WARM_UP), programs)
            last, ended_s = wait_for(watch, orders, programs)
            check_done(watch, orders, programs)
        check_settled(place, folder, orders, before=SHOP_ORDERS, told=bool(tellers))
    return (last - first) / (ended_s - started_s)
