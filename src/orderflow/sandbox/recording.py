"""An outside world for load runs: approves every charge, takes every mail, writes all down.

Run a shipped worker with it: `python -m orderflow.sandbox.recording payment --folder records`.
Each process writes files of its own, so that no two share a lock:

- `charges-<pid>.log`, a line a charge: its idempotency key.
- `refunds-<pid>.log`, a line a refund: its idempotency key.
- `sent-<pid>.log`, a line a mail: the order's id, the time in Unix milliseconds, the kind of mail,
  with tabs between them.

A line is written with one call before the charge or the mail is answered, and from then on it is
the kernel's: the death of the process does not lose it, a power cut may.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from orderflow.contract import JobName
from orderflow.errors import InvalidSettings, InvalidWorker, UnknownWorker
from orderflow.gateways import (
    Approved,
    Charge,
    EntryKind,
    Outcome,
    Page,
    Refund,
    Refunded,
    RefundOutcome,
)
from orderflow.logs import configure_logs
from orderflow.processes import run_processes
from orderflow.resources import Outside, Resources, open_resources
from orderflow.senders import Channel, Message
from orderflow.settings import Settings, load_settings
from orderflow.worker import serve
from orderflow.worker_files import shipped_worker

log = structlog.get_logger(__name__)

CHARGE_FILES = "charges-*.log"
REFUND_FILES = "refunds-*.log"
SENT_FILES = "sent-*.log"
#: As long as the longest kind, so that lines are of one length and a file's size counts them.
_KIND_WIDTH = max(len(JobName.ORDER_CONFIRMATION), len(JobName.PAYMENT_FAILED))
#: Bytes of a line whose key is the UUID that orderflow gave the payment; a foreign key may differ.
CHARGE_LINE_BYTES = 37
#: Bytes of every line about a mail: 36 of a UUID, 13 of a time, a kind, two tabs, the end.
SENT_LINE_BYTES = 36 + 1 + 13 + 1 + _KIND_WIDTH + 1


_PIECE_BYTES = 1_048_576


class RecordFile:
    """A file that lines are added to, whole, with one system call each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def add(self, line: str) -> None:
        """Add a line; it outlives this process from here on. Raises OSError if it does not fit."""
        data = f"{line}\n".encode()
        if os.write(self._fd, data) != len(data):
            raise OSError(f"{self._path}: no room for a whole line")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class RecordingGateway:
    """Approves every charge and refund, and writes its key to `charges` or `refunds`.

    Unlike a gateway that takes money, it does not look for an earlier one with the key: a payment
    that was charged twice must be seen as two lines.
    """

    def __init__(self, folder: Path, charges: RecordFile, refunds: RecordFile) -> None:
        self._folder = folder
        self._charges = charges
        self._refunds = refunds

    async def charge(self, charge: Charge) -> Outcome:
        """Approve, after the key is written down."""
        self._charges.add(charge.key)
        return _approved(charge.key)

    async def find(self, charge: Charge) -> Outcome | None:
        """Return the approval if any process has charged this key.

        Reads all the files of the folder: it is asked only about payments that were begun before.
        """
        charged = await self._is_written(charge.key, CHARGE_FILES)
        return _approved(charge.key) if charged else None

    async def cancel(self, charge: Charge) -> Outcome | None:
        """Return the approval if there is one: here no charge waits for anybody."""
        return await self.find(charge)

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, after the key is written down."""
        self._refunds.add(refund.key)
        return _refunded(refund.key)

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return the refund if any process has made one with this key."""
        refunded = await self._is_written(refund.key, REFUND_FILES)
        return _refunded(refund.key) if refunded else None

    async def entries(
        self,
        kind: EntryKind,  # noqa: ARG002
        since: datetime,  # noqa: ARG002
        until: datetime,  # noqa: ARG002
        after: str | None = None,  # noqa: ARG002
    ) -> Page:
        """Tell of nothing: the files have no times, and who made the run counts their lines."""
        return Page((), None)

    async def _is_written(self, key: str, files: str) -> bool:
        line = f"{key}\n".encode()

        def look() -> bool:
            return any(_has_line(path, line) for path in self._folder.glob(files))

        # They may be hundreds of megabytes, and the jobs beside this one go on.
        return await asyncio.to_thread(look)


class RecordingSender:
    """Takes every mail, and writes whose order it is about, when, and what it says to `sent`."""

    channel = Channel.EMAIL

    def __init__(self, sent: RecordFile) -> None:
        self._sent = sent

    async def send(self, message: Message) -> str:
        """Write the mail down; its reference is returned as it came."""
        kind, _, order_id = message.reference.partition(".")
        self._sent.add(f"{order_id}\t{time.time_ns() // 1_000_000:013}\t{kind:{_KIND_WIDTH}}")
        return message.reference


def _approved(key: str) -> Approved:
    return Approved(transaction_id=f"recorded-{key}")


def _refunded(key: str) -> Refunded:
    return Refunded(refund_id=f"recorded-{key}")


def _has_line(path: Path, line: bytes) -> bool:
    """Look for a line. Read piece by piece: a map of the file would count as our memory."""
    with path.open("rb") as file:
        end = b"\n"
        while piece := file.read(_PIECE_BYTES):
            text = end + piece
            if b"\n" + line in text:
                return True
            # A line may lie across two pieces.
            end = text[-len(line) :]
    return False


@asynccontextmanager
async def open_recording_resources(settings: Settings, folder: Path) -> AsyncIterator[Resources]:
    """Give what `settings` describe, with the recording gateway and sender over `folder`."""
    async with open_resources(settings, partial(_open_recorders, folder=folder)) as resources:
        yield resources


@asynccontextmanager
async def _open_recorders(_settings: Settings, *, folder: Path) -> AsyncIterator[Outside]:
    charges, refunds, sent = (
        RecordFile(folder / f"{name}-{os.getpid()}.log") for name in ("charges", "refunds", "sent")
    )
    try:
        yield Outside(RecordingGateway(folder, charges, refunds), (RecordingSender(sent),))
    finally:
        for file in (charges, refunds, sent):
            file.close()


def run(
    name: Annotated[str, typer.Argument(help="A shipped worker: payment, notification, order.")],
    folder: Annotated[Path, typer.Option(help="Where charges and mails are written down.")],
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000,
            help="Jobs at once in each process; the worker's own number otherwise.",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes to work in.")] = 1,
) -> None:
    """Run the shipped worker NAME with a recording gateway and sender, until SIGTERM or Ctrl-C.

    Exit status: 0 drained, 1 the worker died or one of its processes did not
    drain, 2 a wrong name or setting.
    """
    try:
        settings = load_settings()
        # Never a worker of the current folder: it might reach a world that is not recorded.
        worker = shipped_worker(name)
    except (InvalidSettings, UnknownWorker, InvalidWorker) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    configure_logs(settings.log_format, settings.log_level)
    concurrency = concurrency or worker.concurrency
    if processes > 1:
        raise typer.Exit(run_processes(_command(name, folder, concurrency), processes))
    died = False
    try:
        recorded = partial(open_recording_resources, folder=folder)
        uvloop.run(serve(worker, concurrency, settings, recorded))
    except* Exception:
        log.exception("worker died")
        died = True
    if died:
        raise typer.Exit(1)


def _command(name: str, folder: Path, concurrency: int) -> list[str]:
    """Return the command of one process."""
    options = [f"--folder={folder}", f"--concurrency={concurrency}"]
    return [sys.executable, "-m", "orderflow.sandbox.recording", name, *options]


if __name__ == "__main__":
    typer.run(run)
