"""The producer of a rehearsal, a program: places orders by the checkout use case until all are.

`python -m orderflow.sandbox.rehearsal.producer --orders 5000 --mark FILE`. The file says how far
the orders are placed; a start after a break goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from orderflow.checkout import place_order
from orderflow.errors import DatabaseUnavailable, InvalidSettings
from orderflow.logs import configure_logs
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.rehearsal.customers import Customers
from orderflow.settings import Settings, load_settings

log = structlog.get_logger(__name__)

#: As many as a shop with a few hundred customers at the till has at once.
_IN_FLIGHT = 256
#: As a client would: ask again with the same key, until somebody has to look.
_PAUSE_S = 0.25
_PATIENCE_S = 60.0


class Mark:
    """How far the orders are placed, in a file that outlives this process.

    Below `number` all are placed; `count` of them are in all, and those that are beyond the
    number are placed again after a break, which their keys make harmless.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.number = int((os.read(self._fd, _MARK_BYTES).split() or [b"0"])[0])
        self._beyond: set[int] = set()

    @property
    def count(self) -> int:
        """How many orders are placed, as far as this process knows."""
        return self.number + len(self._beyond)

    def placed(self, number: int) -> None:
        """Note that an order is placed."""
        self._beyond.add(number)
        while self.number in self._beyond:
            self._beyond.remove(self.number)
            self.number += 1
        # Of one length, so that each write replaces the one before.
        os.pwrite(self._fd, f"{self.number:010} {self.count:010}\n".encode(), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


_MARK_BYTES = 22


def read_count(path: Path) -> int:
    """Return how many orders are placed; 0 before the first."""
    try:
        return int((path.read_text().split() or ["0"])[-1])
    except FileNotFoundError:
        return 0


async def produce(orders: int, mark: Mark, settings: Settings) -> None:
    """Place the orders from the mark on, many at once, until all are placed or a signal comes.

    Raises DatabaseUnavailable when PostgreSQL stays away.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    customers = Customers()
    numbers = iter(range(mark.number, orders))
    async with open_resources(settings) as resources, asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(_place_next(numbers, customers, mark, resources, stop))


async def _place_next(
    numbers: Iterator[int],
    customers: Customers,
    mark: Mark,
    resources: Resources,
    stop: asyncio.Event,
) -> None:
    """Place one order after the other; the numbers are shared by all who do."""
    for number in numbers:
        if stop.is_set():
            return
        await _place(number, customers, resources)
        mark.placed(number)


async def _place(number: int, customers: Customers, resources: Resources) -> None:
    checkout, user_id, key = customers.order(number)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            await place_order(checkout, user_id, key, db=resources.db, queues=resources.queues)
        except DatabaseUnavailable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("checkout tried again", number=number, reason=str(error))
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def run(
    orders: Annotated[int, typer.Option(min=1, help="How many orders there are to be in all.")],
    mark: Annotated[Path, typer.Option(help="The file that says how far this came.")],
) -> None:
    """Place orders until there are ORDERS, or until SIGTERM or Ctrl-C.

    Exit status: 0 all placed or stopped, 1 it could not go on, 2 a wrong setting.
    """
    try:
        settings = load_settings()
    except InvalidSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    configure_logs(settings.log_format, settings.log_level)
    kept = Mark(mark)
    died = False
    try:
        uvloop.run(produce(orders, kept, settings))
    except* Exception:
        log.exception("producer died")
        died = True
    finally:
        kept.close()
    if died:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(run)
