"""The limits on what clients can make the shop hold: a body, requests at once, unpaid orders."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.api.faults import Fault
from orderflow.api.problems import Kind, Problem
from orderflow.db import Database
from orderflow.errors import OrderflowError
from orderflow.metrics import CHECKOUTS_IN_FLIGHT, CHECKOUTS_IN_FLIGHT_MAX

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
#: So many orders that wait are a queue that is behind; fewer may each have a reason of its own.
_BEHIND_FROM = 10
#: They have to be worked off first: to come again in a second would be no use.
_RETRY_AFTER_S = 10


class InFlight:
    """At most `limit` requests of one kind at once; more would only wait for each other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more while inside. Raises Problem where that would be too many."""
        if self._count >= self._limit:
            raise Problem(Kind.TOO_MANY_CHECKOUTS, "Try again; nothing was ordered.")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show how many there are, and may be, while inside."""
        with (
            CHECKOUTS_IN_FLIGHT.of(lambda: self._count),
            CHECKOUTS_IN_FLIGHT_MAX.of(lambda: self._limit),
        ):
            yield


class Backlog:
    """Says no to checkouts while the orders before them wait too long for their payment.

    That is for more than `shed_after_s`; with None it never does.
    """

    def __init__(self, db: Database, shed_after_s: int | None) -> None:
        self._db = db
        self._shed_after_s = shed_after_s
        self._look_at = 0.0
        self._behind = False

    async def check(self) -> None:
        """Look, if it is time to. Raises Problem where the shop is behind."""
        if self._shed_after_s is None:
            return
        if time.monotonic() >= self._look_at:
            # At once, so that of many requests one looks, and the others go by what it saw before.
            self._look_at = math.inf
            try:
                await self._look(self._shed_after_s)
            finally:
                self._look_at = time.monotonic() + _LOOK_EVERY_S
        if self._behind:
            raise Problem(
                Kind.PAYMENTS_BEHIND,
                "Try again later; nothing was ordered.",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )

    async def _look(self, shed_after_s: int) -> None:
        behind = False
        try:
            row = await self._db.fetchrow("count_overdue", shed_after_s, _BEHIND_FROM)
            behind = row is not None and row["overdue"] >= _BEHIND_FROM
        except OrderflowError as error:
            # Nothing is known, so nothing is shed.
            log.warning("backlog not looked at", reason=str(error))
        if behind != self._behind:
            self._behind = behind
            log.warning("checkouts are shed" if behind else "checkouts are taken again")


class BodyLimit:
    """Refuses a body over `max_bytes`: by its Content-Length, and while its chunks are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app. Raises Problem at once, or out of the app's reading."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._max_bytes:
            raise self._too_large()
        seen = 0

        async def count() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, count, send)

    def _too_large(self) -> Problem:
        detail = f"A body may have {self._max_bytes} bytes at most."
        faults = [Fault("", f"bytes-at-most {self._max_bytes}", detail)]
        return Problem(Kind.BODY_TOO_LARGE, detail, faults=faults)


def _announced_bytes(scope: Scope) -> int:
    """Return the Content-Length, or 0 if there is none to go by: then the chunks are counted."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            # So long a number is none to go by, and Python would refuse to read it.
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0
