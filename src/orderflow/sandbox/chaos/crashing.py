"""Workers that die at a line of one's choice: `python -m orderflow.sandbox.chaos.crashing`.

The shipped worker with its shipped handlers; only what they reach the outside with is wrapped, so
that no line of the product knows of this.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import uvloop

from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.gateways import (
    Charge,
    EntryKind,
    Gateway,
    Outcome,
    Page,
    Refund,
    RefundOutcome,
    Reply,
)
from orderflow.logs import configure_logs
from orderflow.resources import Resources, open_resources
from orderflow.senders import Message, Sender
from orderflow.settings import Settings, load_settings
from orderflow.worker import serve
from orderflow.worker_files import load_worker

#: A token that kills whoever charges it.
POISON = "tok_poison"


class Point(StrEnum):
    """Where a worker dies."""

    BEFORE_CHARGE = "before-charge"
    AFTER_CHARGE = "after-charge"  # money is taken, and nobody here knows
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"  # paid, and nobody is told
    AFTER_QUEUED = "after-queued"  # to be told, and the job's end is not recorded
    BEFORE_SEND = "before-send"
    AFTER_SEND = "after-send"  # told, and nobody here knows
    AFTER_RECORD = "after-record"
    POISON = "poison"  # whenever the poisoned token is charged


OF_PAYMENT = (
    Point.BEFORE_CHARGE,
    Point.AFTER_CHARGE,
    Point.BEFORE_COMMIT,
    Point.AFTER_COMMIT,
    Point.AFTER_QUEUED,
)
OF_NOTIFICATION = (Point.BEFORE_SEND, Point.AFTER_SEND, Point.AFTER_RECORD)


class _Death:
    """Ends the process the n-th time that it comes by the point."""

    def __init__(self, point: Point, number: int) -> None:
        self._point = point
        self._left = number

    def pass_by(self, point: Point) -> None:
        if point is self._point:
            self._left -= 1
            if self._left <= 0:
                os._exit(9)


class _Gateway:
    def __init__(self, gateway: Gateway, death: _Death) -> None:
        self._gateway = gateway
        self._death = death

    async def charge(self, charge: Charge) -> Reply:
        if charge.token == POISON:
            self._death.pass_by(Point.POISON)
        self._death.pass_by(Point.BEFORE_CHARGE)
        outcome = await self._gateway.charge(charge)
        self._death.pass_by(Point.AFTER_CHARGE)
        return outcome

    async def find(self, charge: Charge) -> Reply | None:
        return await self._gateway.find(charge)

    async def cancel(self, charge: Charge) -> Outcome | None:
        return await self._gateway.cancel(charge)

    async def refund(self, refund: Refund) -> RefundOutcome:
        return await self._gateway.refund(refund)

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        return await self._gateway.find_refund(refund)

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        return await self._gateway.entries(kind, since, until, after)


class _Sender:
    def __init__(self, sender: Sender, death: _Death) -> None:
        self._sender = sender
        self._death = death
        self.channel = sender.channel

    async def send(self, message: Message) -> str:
        self._death.pass_by(Point.BEFORE_SEND)
        reference = await self._sender.send(message)
        self._death.pass_by(Point.AFTER_SEND)
        return reference


class _Database:
    """The database, but for its batches."""

    def __init__(self, db: Database, death: _Death) -> None:
        self._db = db
        self._death = death

    async def batch(self, query: str, *args: Any, **options: Any) -> Any:
        if query.startswith("settle_"):
            self._death.pass_by(Point.BEFORE_COMMIT)
        row = await self._db.batch(query, *args, **options)
        if query.startswith("settle_"):
            self._death.pass_by(Point.AFTER_COMMIT)
        if query == "record_sent":
            self._death.pass_by(Point.AFTER_RECORD)
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class _Queues:
    """The queues, but for what is offered to them."""

    def __init__(self, queues: JobQueues, death: _Death) -> None:
        self._queues = queues
        self._death = death

    async def offer(self, job: Any) -> bool:
        taken = await self._queues.offer(job)
        self._death.pass_by(Point.AFTER_QUEUED)
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queues, name)


def main() -> None:
    """Work until the point is reached for the n-th time, or a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m orderflow.sandbox.chaos.crashing")
    parser.add_argument("worker")
    parser.add_argument("--at", type=Point, choices=list(Point), required=True)
    parser.add_argument("--number", type=int, default=1, help="at which time")
    parser.add_argument("--concurrency", type=int, default=20)
    options = parser.parse_args()
    death = _Death(options.at, options.number)

    @asynccontextmanager
    async def mortal(settings: Settings) -> AsyncIterator[Resources]:
        async with open_resources(settings) as resources:
            yield replace(
                resources,
                db=_Database(resources.db, death),  # type: ignore[arg-type]
                queues=_Queues(resources.queues, death),  # type: ignore[arg-type]
                gateway=_Gateway(resources.gateway, death),
                senders=tuple(_Sender(sender, death) for sender in resources.senders),
            )

    settings = load_settings()
    configure_logs(settings.log_format, settings.log_level)
    uvloop.run(serve(load_worker(options.worker), options.concurrency, settings, mortal))


if __name__ == "__main__":
    main()
