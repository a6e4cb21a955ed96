"""Who follows which order in this process, and how they come to know that it changed.

Messages on a channel of Redis say where to look, and one statement looks at the rows of all orders
that are followed here. The rows are looked at without a message, too: seldom while Redis answers,
and every few seconds while it does not. So a message that was lost is a delay, and no more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from starlette.types import Receive

from orderflow.api.auth import User
from orderflow.api.background import Background
from orderflow.api.leaving import Leaving
from orderflow.api.problems import Kind, Problem
from orderflow.bull.changes import QUIET_S, ChangesListener
from orderflow.db import Reads
from orderflow.errors import OrderflowError
from orderflow.live_status import Position, Progress
from orderflow.metrics import ORDER_STREAMS

log = structlog.get_logger(__name__)

#: Of one user in one process; admins follow for others.
MOST_OF_USER = 10
#: How often the rows are looked at without a message: while Redis answers, and while it does not.
LOOK_EVERY_S = 15.0
LOOK_WHILE_AWAY_EVERY_S = 2.0

#: How long a message is waited for, before it is seen whether all else goes on.
_TICK_S = 1.0
#: Rows of one statement.
_AT_ONCE = 500
#: When to come again: by then some have left.
_RETRY_AFTER_S = 10


class Follower:
    """One who follows an order: what they know, and what is to be told to them."""

    __slots__ = ("_fresh", "_rest", "position")

    def __init__(self) -> None:
        #: What was sent last, or None before that.
        self.position: Position | None = None
        self._fresh: Progress | None = None
        self._rest: asyncio.Timeout | None = None

    def tell(self, progress: Progress) -> None:
        """Have it sent how far the order is, if they do not know."""
        known = self._fresh.position if self._fresh is not None else self.position
        if known is None or progress.position > known:
            self._fresh = progress
            self.wake()

    def take(self) -> Progress | None:
        """Return what is to be sent, once."""
        fresh, self._fresh = self._fresh, None
        if fresh is None or (self.position is not None and fresh.position <= self.position):
            return None
        return fresh

    def wake(self) -> None:
        """End the rest."""
        rest, self._rest = self._rest, None
        if rest is not None and not rest.expired():
            rest.reschedule(0)

    async def rest(self, receive: Receive, seconds: float) -> bool:
        """Wait to be woken, for `seconds` at most; False if the client left.

        There is one task for each of them and no other, since there may be many thousands.
        """
        if self._fresh is not None:
            return True
        try:
            async with asyncio.timeout(seconds) as self._rest:
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return True
        finally:
            self._rest = None
        return False


class OrderStreams:
    """The open streams of one process, `limit` at most."""

    def __init__(
        self,
        db: Reads,
        listener: ChangesListener,
        leaving: Leaving,
        background: Background,
        limit: int,
    ) -> None:
        self._db = db
        self._listener = listener
        self._leaving = leaving
        self._background = background
        self._limit = limit
        self._open = 0
        self._of_user: Counter[str] = Counter()
        #: By the id of the order, as messages have it.
        self._followers: dict[str, list[Follower]] = {}
        self._is_listening = False
        self._hears = False
        self._look_at = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show how many there are while inside."""
        with ORDER_STREAMS.of(lambda: self._open):
            yield

    @contextmanager
    def follow(self, order_id: UUID, user: User) -> Iterator[Follower]:
        """Give one who is told of the order from now on.

        Who looks at the order after this, misses nothing. Raises Problem where there are too many.
        """
        self._check_room(user)
        key, follower = str(order_id), Follower()
        self._followers.setdefault(key, []).append(follower)
        self._of_user[user.id] += 1
        self._open += 1
        self._listen()
        try:
            yield follower
        finally:
            self._open -= 1
            self._of_user[user.id] -= 1
            if not self._of_user[user.id]:
                del self._of_user[user.id]
            self._followers[key].remove(follower)
            if not self._followers[key]:
                del self._followers[key]

    async def look(self, order_id: UUID) -> Progress | None:
        """Return how far an order is, in one statement with all who ask now; None without one."""
        # It only reads, so nothing has to be kept apart.
        row = await self._db.batch("live_orders", order_id, apart=object())
        return None if row is None else Progress(row)

    def _check_room(self, user: User) -> None:
        again = {"Retry-After": str(_RETRY_AFTER_S)}
        if self._open >= self._limit:
            detail = "Try again, or ask for the order itself now and then."
            raise Problem(Kind.TOO_MANY_STREAMS, detail, headers=again)
        if self._of_user[user.id] >= MOST_OF_USER and not user.admin:
            detail = f"At most {MOST_OF_USER} may be open; close one."
            raise Problem(Kind.TOO_MANY_STREAMS_OF_USER, detail, headers=again)

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._background.start(self._keep_listening(), "order streams")

    async def _keep_listening(self) -> None:
        """Tell all who follow, until nobody does or the process is about to stop."""
        self._look_at = time.monotonic() + LOOK_EVERY_S
        # Looked at without a message: in parts, so that a message need not wait for all of them.
        unasked: Iterator[str] = iter(())
        try:
            while self._followers and not self._leaving.begun:
                some = set(islice(unasked, _AT_ONCE if self._hears else None))
                changed = await self._changed(0 if some else _TICK_S)
                await self._tell((changed | some) & self._followers.keys())
                if time.monotonic() >= self._look_at:
                    self._look_at = time.monotonic() + LOOK_EVERY_S
                    unasked = iter(list(self._followers))
        finally:
            self._is_listening = False
            for followers in self._followers.values():
                for follower in followers:
                    follower.wake()
            await self._listener.close()

    async def _changed(self, wait_s: float) -> set[str]:
        """Return which orders are said to have changed; wait so long for the first of them."""
        beginnings = self._listener.beginnings
        try:
            changed = await self._listener.heard(wait_s)
        except (RedisError, OSError) as error:
            log.debug("changes not heard", reason=type(error).__name__)
            self._hears = False
            self._look_again_in(LOOK_WHILE_AWAY_EVERY_S)
            await asyncio.sleep(wait_s)
            return set()
        self._hears = True
        if self._listener.beginnings != beginnings:
            # While nobody listened nobody told, and it takes them a moment to find out.
            self._look_again_in(2 * QUIET_S)
            return set(self._followers)
        return changed

    def _look_again_in(self, seconds: float) -> None:
        self._look_at = min(self._look_at, time.monotonic() + seconds)

    async def _tell(self, order_ids: Iterable[str]) -> None:
        """Look at the rows of these orders, and tell who follows them."""
        left = iter(order_ids)
        try:
            while some := [UUID(order_id) for order_id in islice(left, _AT_ONCE)]:
                for row in await self._db.fetch("live_orders", some):
                    progress = Progress(row)
                    for follower in self._followers.get(str(row["id"]), ()):
                        follower.tell(progress)
        except OrderflowError as error:
            log.debug("orders not looked at", reason=str(error))
            self._look_again_in(LOOK_WHILE_AWAY_EVERY_S)
