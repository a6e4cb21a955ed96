"""What a process counts of itself, by name: one set for each process, as it has one log.

docs/metrics.md tells what each name means, and `serving.py` answers the scrapes. The exporter
counts nothing, and asks Redis and PostgreSQL.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric

from orderflow import __version__
from orderflow.metrics.instruments import Counter, Gauge, Histogram, Reading

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

# Jobs
JOB_WAIT: Final = Histogram(
    "orderflow_job_wait_seconds",
    "How long from when a job was added, or its delay was over, to its first attempt.",
    _LONG_S,
    ["queue"],
)
JOB_RUN: Final = Histogram(
    "orderflow_job_run_seconds", "How long the handler of an attempt ran.", _SHORT_S, ["queue"]
)
JOB_ATTEMPTS: Final = Counter(
    "orderflow_job_attempts_total", "Attempts of jobs, by how they ended.", ["queue", "outcome"]
)
JOB_RETRIES: Final = Counter(
    "orderflow_job_retries_total",
    "Attempts that failed and are tried again, by the name of their error.",
    ["queue", "reason"],
)
JOB_FAILURES: Final = Counter(
    "orderflow_job_failures_total",
    "Jobs that failed for good, by the name of their error.",
    ["queue", "reason"],
)
JOB_STALLS: Final = Counter(
    "orderflow_job_stalls_total", "Jobs found left by a worker that seemed dead.", ["queue"]
)
JOB_LOCKS_LOST: Final = Counter(
    "orderflow_job_locks_lost_total", "Jobs whose lock could not be renewed.", ["queue"]
)
WORKER_SLOTS: Final = Reading(
    "orderflow_worker_slots", "Jobs that the process may run at once.", ["queue"]
)
WORKER_SLOTS_BUSY: Final = Reading(
    "orderflow_worker_slots_busy", "Jobs that the process runs.", ["queue"]
)
JOB_OFFERS: Final = Counter(
    "orderflow_job_offers_total",
    "Jobs offered by checkouts and payments, by what became of the offer.",
    ["queue", "outcome"],
)

# Orders and money
ORDERS: Final = Counter("orderflow_orders_total", "Orders, by what became of them.", ["outcome"])
ORDER_SECONDS: Final = Histogram(
    "orderflow_order_seconds",
    "How long from the checkout until the customer was told how it ended.",
    _LONG_S,
    ["outcome"],
)
PAYMENTS: Final = Counter(
    "orderflow_payments_total", "Payments that got their outcome, by which.", ["outcome", "method"]
)
MONEY: Final = Counter(
    "orderflow_money_total", "Money, in units of its currency.", ["kind", "currency"]
)
STRAY_CHARGES: Final = Counter(
    "orderflow_stray_charges_total", "Charges that no order has a use for."
)
ORDER_EVENTS: Final = Counter(
    "orderflow_order_events_total",
    "What became of orders after their payment, or instead of it.",
    ["event"],
)
REFUNDS: Final = Counter(
    "orderflow_refunds_total",
    "Refunds that got their outcome, by which and why.",
    ["outcome", "cause"],
)
GATEWAY_SECONDS: Final = Histogram(
    "orderflow_gateway_seconds",
    "How long calls of the gateway took.",
    _SHORT_S,
    ["gateway", "call", "outcome"],
)
SENDER_SECONDS: Final = Histogram(
    "orderflow_sender_seconds",
    "How long it took to hand over one message.",
    _SHORT_S,
    ["channel", "outcome"],
)
BREAKER_OPEN: Final = Reading(
    "orderflow_breaker_open", "Whether this is left alone because it failed.", ["breaker"]
)
BREAKER_CHANGES: Final = Reading(
    "orderflow_breaker_changes_total",
    "How often the breaker opened, anew or again, and closed.",
    ["breaker"],
    CounterMetricFamily,
)

# The reconciler
RECONCILER_RUNS: Final = Counter(
    "orderflow_reconciler_runs_total", "Runs of the reconciler, by how they ended.", ["outcome"]
)
RECONCILER_ACTIONS: Final = Counter(
    "orderflow_reconciler_actions_total", "What runs of the reconciler did.", ["action"]
)
RECONCILER_RUN: Final = Histogram(
    "orderflow_reconciler_run_seconds",
    "How long runs of the reconciler took that were not skipped.",
    _LONG_S,
)
RECONCILER_LAST_RUN: Final = Gauge(
    "orderflow_reconciler_last_run_timestamp_seconds",
    "When the last run of the reconciler ended that was done, 0 if none was yet.",
)
RECONCILER_UNSETTLED: Final = Gauge(
    "orderflow_reconciler_unsettled_orders", "Orders that the last run of the reconciler looked at."
)

WEBHOOK_ATTEMPTS: Final = Counter(
    "orderflow_webhook_attempts_total",
    "Attempts to deliver a webhook, by how they ended.",
    ["outcome"],
)

BOOKS_LAST_RUN: Final = Gauge(
    "orderflow_books_last_run_timestamp_seconds",
    "When the gateway's books were last compared with ours to the end.",
)

# What they stand on
HTTP_REQUEST: Final = Histogram(
    "orderflow_http_request_seconds",
    "How long requests took, from their head to the end of their answer.",
    _SHORT_S,
    ["route", "method", "status"],
)
HTTP_CONNECTIONS_REFUSED: Final = Counter(
    "orderflow_http_connections_refused_total",
    "Connections ended before a request reached the app, by why.",
    ["reason"],
)
ORDER_STREAMS: Final = Reading("orderflow_order_streams", "Open streams of orders.")
CHECKOUTS_IN_FLIGHT: Final = Reading("orderflow_checkouts_in_flight", "Checkouts under way.")
CHECKOUTS_IN_FLIGHT_MAX: Final = Reading(
    "orderflow_checkouts_in_flight_max", "Checkouts that may be under way."
)
BATCH_SIZE: Final = Histogram(
    "orderflow_batch_size", "Calls that shared one statement.", _SIZES, ["statement"]
)
POOL_SIZE: Final = Reading("orderflow_postgres_pool_size", "Open connections to PostgreSQL.")
POOL_MAX: Final = Reading(
    "orderflow_postgres_pool_max", "Connections to PostgreSQL that there may be."
)
POOL_IDLE: Final = Reading(
    "orderflow_postgres_pool_idle", "Open connections to PostgreSQL that nobody uses."
)
POOL_WAITING: Final = Reading(
    "orderflow_postgres_pool_waiting",
    "Statements and transactions that wait for a connection to PostgreSQL.",
)
READS: Final = Counter(
    "orderflow_postgres_reads_total",
    "Queries that a replica may answer, by which server did.",
    ["server"],
)
REPLICA_LAG: Final = Reading(
    "orderflow_postgres_replica_lag_seconds", "How far behind the primary the replica is."
)
REPLICA_USED: Final = Reading("orderflow_postgres_replica_used", "Whether reads go to the replica.")
PIPELINE_DEPTH: Final = Reading(
    "orderflow_redis_pipeline_depth", "Commands to Redis under way, or waiting to be sent."
)
PIPELINE_COMMANDS: Final = Histogram(
    "orderflow_redis_pipeline_commands", "Commands to Redis that were sent together.", _SIZES
)
BUILD: Final = Gauge(
    "orderflow_build_info", "The versions of orderflow and of Python.", ["version", "python"]
)
BUILD[__version__, platform.python_version()] = 1

_INSTRUMENTS = tuple(
    value
    for value in globals().values()
    if isinstance(value, Counter | Gauge | Histogram | Reading)
)
_PROCESS = ProcessCollector(registry=None)


class ShownBreaker(Protocol):
    """What there is to show of a breaker, or of several as one."""

    @property
    def is_open(self) -> bool:
        """Whether it is open, or any of them."""

    @property
    def changes(self) -> int:
        """How often it opened, anew or again, and closed."""


@contextmanager
def breaker_shown(name: str, breaker: ShownBreaker) -> Iterator[None]:
    """Show the state of a breaker while inside."""
    with (
        BREAKER_OPEN.of(lambda: breaker.is_open, name),
        BREAKER_CHANGES.of(lambda: breaker.changes, name),
    ):
        yield


def of_replica() -> Iterator[Metric]:
    """Give what there is to say of the replica that this process reads at."""
    return (metric.collect() for metric in (REPLICA_LAG, REPLICA_USED))


def collect() -> Iterator[Metric]:
    """Give all metrics of this process that there is anything to say of."""
    for source in _INSTRUMENTS:
        metric = source.collect()
        if metric.samples:
            yield metric
    yield from _PROCESS.collect()
