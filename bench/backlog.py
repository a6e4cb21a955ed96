"""Orders that all wait for their payment job, the workers that pay them, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RowAborted
from bench.processes import Program, python
from bench.servers import SHOP, Lab, Place, add_jobs, fetch
from bench.shop import add_pending_orders
from orderflow.contract import payment_job

PAYMENTS = "payment-processing"
NOTIFICATIONS = "notifications"


@dataclass(frozen=True)
class Backlog:
    """A database of orders that all wait for their payment job, and those jobs."""

    database: str
    jobs: Sequence[dict[str, Any]]


def our_worker(name: str, concurrency: int, folder: Path) -> list[str]:
    """Return the command of a shipped worker whose outside writes down what it is asked."""
    options = ("--folder", str(folder), "--concurrency", str(concurrency))
    return python("orderflow.sandbox.recording", name, *options)


def make_backlog(lab: Lab, orders: int) -> Backlog:
    """Write the orders into a database of their own, which runs copy."""
    database = "backlog"
    lab.sql(f"CREATE DATABASE {database} TEMPLATE {SHOP} STRATEGY file_copy")
    rows = add_pending_orders(lab.url_of(database), orders)
    jobs = []
    for row in rows:
        job = payment_job(str(row["id"]), str(row["order_id"]), row["method"], row["amount"])
        options = {"jobId": job.job_id, "priority": 1}
        jobs.append({"name": job.name.value, "data": job.data, "opts": options})
    return Backlog(database, jobs)


@contextmanager
def working(
    lab: Lab, place: Place, backlog: Backlog, commands: Sequence[Sequence[str]]
) -> Iterator[list[Program]]:
    """Run workers on a backlog."""
    add_jobs(place, PAYMENTS, backlog.jobs)
    with ExitStack() as stack:
        yield [
            stack.enter_context(lab.running(f"worker-{n}", command, place.environment()))
            for n, command in enumerate(commands)
        ]


SETTLED = """
SELECT
    (SELECT count(*) FROM payments WHERE status = 'completed') - $1 AS paid,
    (SELECT count(*) FROM orders WHERE status = 'confirmed') - $1 AS confirmed,
    (SELECT count(*) FROM orders WHERE notified_at IS NOT NULL) - $1 AS notified,
    (SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL) - $1 AS sent
"""


def check_settled(place: Place, folder: Path, orders: int, *, before: int, told: bool) -> None:
    """Raise RowAborted unless every order was paid once, and its customer told once, if at all."""
    found = dict(fetch(place.database_url, SETTLED, before)[0])
    notified = orders if told else 0
    wanted = {"paid": orders, "confirmed": orders, "notified": notified, "sent": notified}
    if found != wanted:
        raise RowAborted(f"wanted {wanted}, found {found}")
    recorded = sum(file.read_bytes().count(b"\n") for file in folder.iterdir())
    if recorded != orders + notified:
        raise RowAborted(f"{recorded} charges and mails were recorded for {orders} orders")


def records_folder(lab: Lab, place: Place) -> Path:
    """Return a new folder for what the outside of one run writes down."""
    folder = lab.folder / f"records-{place.prefix}"
    folder.mkdir()
    return folder
