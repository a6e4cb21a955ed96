"""The row about mails: notification workers that hand each mail to a server over SMTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import RowAborted
from bench.processes import node, python
from bench.rows import MeasureSide, Options, Row, Side, rate
from bench.servers import SHOP, Lab, QueueWatch, add_jobs, fetch, open_lab
from bench.shop import add_paid_orders
from bench.watch import check_done, jobs_per_second
from orderflow.contract import order_confirmation_job

_NOTIFICATIONS = "notifications"
_MAILS = 15_000
_CONCURRENCY = 50
_CONNECTIONS = 20
_START_S = 30.0

_TOLD = """
SELECT count(*) FILTER (WHERE notified_at IS NULL) AS untold FROM orders
"""


def _confirmation_jobs(url: str, orders: int) -> list[dict[str, Any]]:
    """Add orders whose customers are still to be told; return the jobs that tell them."""
    jobs = []
    for order_id in add_paid_orders(url, orders):
        job = order_confirmation_job(str(order_id), "ada")
        options = {"jobId": job.job_id, "priority": 1}
        jobs.append({"name": job.name.value, "data": job.data, "opts": options})
    return jobs


@contextmanager
def _open_mails(options: Options) -> Iterator[MeasureSide]:
    database = "backlog"
    with open_lab(options.log_level, postgres=True) as lab:
        lab.sql(f"CREATE DATABASE {database} TEMPLATE {SHOP} STRATEGY file_copy")
        jobs = _confirmation_jobs(lab.url_of(database), options.count(_MAILS))
        yield lambda side: {"": _mails_per_second(lab, database, jobs, side)}


def _mails_per_second(lab: Lab, database: str, jobs: Sequence[dict[str, Any]], side: Side) -> float:
    with lab.place(database) as place:
        taken = lab.folder / f"mails-{place.prefix}"
        with lab.running("sink", python("bench.mail_sink", str(taken)), {}) as sink:
            port = sink.hear(_START_S)
            environment = place.environment(
                SMTP_PORT=port,
                SMTP_CONNECTIONS=str(_CONNECTIONS),
                MAIL_FROM="Shop <orders@shop.example>",
            )
            add_jobs(place, _NOTIFICATIONS, jobs)
            with lab.running("worker", _worker(side), environment) as worker:
                programs = [sink, worker]
                watch = QueueWatch(lab.redis, place.prefix, _NOTIFICATIONS)
                found = jobs_per_second(watch, len(jobs), programs)
                check_done(watch, len(jobs), programs)
        _check_mailed(taken, place.database_url, len(jobs))
        return found


def _worker(side: Side) -> list[str]:
    if side is Side.PEER:
        return node("notification.mjs", str(_CONCURRENCY))
    return python("orderflow.worker", "notification", "--concurrency", str(_CONCURRENCY))


def _check_mailed(taken: Path, url: str, mails: int) -> None:
    """Raise RowAborted unless every customer got one mail, and is known to have it."""
    lines = taken.read_text().splitlines()
    untold = fetch(url, _TOLD)[0]["untold"]
    if len(lines) != mails or len(set(lines)) != mails or untold:
        raise RowAborted(
            f"{len(lines)} mails arrived, {len(set(lines))} different ones, of {mails};"
            f" {untold} orders are not told"
        )


MAIL_ROWS = [
    Row(
        "mails",
        "Node bullmq 6.7, pg and nodemailer's pool",
        "orderflow worker",
        [rate("mails", "mails/s", 1.5, 2)],
        _open_mails,
    ),
]
