"""How a command runs and ends: its connections, its errors in one line, its questions.

Exit status: 0 done, 1 not done, since it is not there, not possible now, or was not confirmed, 2
the command or a setting is wrong, or a server does not answer, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from redis.exceptions import RedisError

from orderflow.bull.queues import JobQueues, open_queues
from orderflow.db import Database, open_database
from orderflow.errors import (
    BulkActionEnded,
    BulkActionNotFound,
    FailureGroupNotFound,
    InvalidPayload,
    JobIsRunning,
    JobNotFound,
    JobNotInState,
    JobOfSchedule,
    OrderflowError,
    OrderNotFound,
    UnknownJobState,
    UnknownQueue,
    UserHasOpenOrders,
    WebhookDeliveryNotFound,
    WebhookEndpointNotFound,
    WrongJobState,
)
from orderflow.logs import configure_logs
from orderflow.operations.audit import Actor
from orderflow.settings import Settings, load_settings

T = TypeVar("T")

NOT_DONE, WRONG, INTERRUPTED = 1, 2, 130

#: The command is right, and what it is about is not there, or not as it would have to be.
_NOT_POSSIBLE = (
    *(UnknownQueue, UnknownJobState, WrongJobState, JobNotFound, JobIsRunning, JobNotInState),
    *(JobOfSchedule, FailureGroupNotFound, BulkActionNotFound, BulkActionEnded),
    *(InvalidPayload, OrderNotFound, UserHasOpenOrders),
    *(WebhookEndpointNotFound, WebhookDeliveryNotFound),
)

#: A person waits longer than a checkout.
_PATIENCE = {"redis_timeout_ms": 5_000, "database_timeout_ms": 10_000}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]


@dataclass(frozen=True, slots=True)
class Stores:
    """Redis and PostgreSQL, as the use cases take them."""

    settings: Settings
    db: Database
    queues: JobQueues

    @property
    def both(self) -> dict[str, Any]:
        """The two as keyword arguments."""
        return {"db": self.db, "queues": self.queues}


@asynccontextmanager
async def open_stores() -> AsyncIterator[Stores]:
    """Give the stores of the settings, closed on leaving. Raises InvalidSettings."""
    settings = load_settings()
    # What is done is printed; a log line of it would be said twice.
    configure_logs("console", "warning")
    patient = settings.model_copy(update=_PATIENCE)
    async with (
        open_database(
            settings.database_dsn,
            4,
            patient.database_timeout_ms,
            pooled=settings.database_is_pooled,
        ) as db,
        open_queues(patient) as queues,
    ):
        yield Stores(settings, db, queues)


def with_stores(work: Callable[[Stores], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` does with the stores, or end the command with its error."""

    async def connected() -> T:
        async with open_stores() as stores:
            return await work(stores)

    return run(connected())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` comes to, or end the command with its error."""
    return checked(lambda: asyncio.run(work))


def checked(call: Callable[[], T]) -> T:
    """Return what `call` does; an error that a person can mend ends the command in one line."""
    try:
        return call()
    except _NOT_POSSIBLE as error:
        fail(str(error), NOT_DONE)
    except OrderflowError as error:
        fail(str(error))
    except (RedisError, OSError) as error:
        fail(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)


def fail(reason: str, status: int = WRONG) -> NoReturn:
    """End the command with a line on standard error."""
    typer.echo(reason, err=True)
    raise typer.Exit(status)


def confirm(question: str, *, yes: bool) -> None:
    """Go on if it is confirmed, or end the command; without a terminal to ask at, refuse."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        fail(f"{question} There is no terminal to ask at: say --yes")
    if not typer.confirm(question, err=True):
        fail("nothing was changed", NOT_DONE)


def operator(reason: str) -> Actor:
    """Return who runs this command: the user of the system, and on which machine."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return Actor(f"{user}@{socket.gethostname()}", "cli", reason)
