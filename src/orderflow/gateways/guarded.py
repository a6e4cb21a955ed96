"""A gateway that is left alone while it is down, so that payments do not use up their attempts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from orderflow.breaker import BreakerOpen, CircuitBreaker, Outage
from orderflow.errors import GatewayRefused, GatewayResting, GatewayUnavailable
from orderflow.gateways import (
    ActionRequired,
    Approved,
    Charge,
    Declined,
    EntryKind,
    Gateway,
    Outcome,
    Page,
    Refund,
    Refunded,
    RefundOutcome,
    RefundPending,
    Reply,
)
from orderflow.metrics import GATEWAY_SECONDS

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=Reply | RefundOutcome | Page | None)
#: Tells others of the outage, or with None that it is over.
Tell = Callable[[Outage | None], Awaitable[None]]
_Guard = Callable[[type[Exception]], AbstractContextManager[None]]


class GuardedGateway:
    """Asks `gateway` while it answers, and raises GatewayResting while the breaker is open.

    Only GatewayUnavailable is a failure: a refusal and a declined card are answers. A gateway may
    tell of old charges, or give them back, and take no new ones, so it is a charge that closes the
    breaker. `name` is what the metrics call the gateway.
    """

    def __init__(self, gateway: Gateway, name: str, breaker: CircuitBreaker, tell: Tell) -> None:
        self._gateway = gateway
        self._name = name
        self._breaker = breaker
        self._tell = tell
        self._told = 0
        self._reason = ""
        self._since: datetime | None = None

    async def charge(self, charge: Charge) -> Reply:
        """Take the money, or return what came of this key before."""
        ask = partial(self._gateway.charge, charge)
        return await self._ask("charge", self._breaker.attempt, ask)

    async def find(self, charge: Charge) -> Reply | None:
        """Return what came of the charge with this key, or None if there was none."""
        return await self._ask("find", self._breaker.watch, partial(self._gateway.find, charge))

    async def cancel(self, charge: Charge) -> Outcome | None:
        """See to it that no money comes of this key any more; return its outcome if it had one."""
        return await self._ask("cancel", self._breaker.watch, partial(self._gateway.cancel, charge))

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, or return what came of this key before."""
        ask = partial(self._gateway.refund, refund)
        return await self._ask("refund", self._breaker.watch, ask)

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return what came of the refund with this key, or None if there was none."""
        ask = partial(self._gateway.find_refund, refund)
        return await self._ask("find refund", self._breaker.watch, ask)

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        """Return a page of the books: what was made from `since` on and before `until`."""
        ask = partial(self._gateway.entries, kind, since, until, after)
        return await self._ask("entries", self._breaker.watch, ask)

    async def _ask(self, call: str, guard: _Guard, ask: Callable[[], Awaitable[T]]) -> T:
        was_open = self._breaker.is_open
        try:
            with guard(GatewayUnavailable):
                return await self._timed(call, ask)
        except BreakerOpen as error:
            raise self._resting(error.retry_after_s) from None
        except GatewayUnavailable as error:
            self._reason = error.reason
            if self._breaker.is_open and not was_open:
                # Of the many calls that meet the same outage only the first cost an attempt.
                raise self._resting(self._breaker.retry_after_s) from error
            raise
        finally:
            await self._tell_of_changes()

    async def _timed(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        started = time.perf_counter()
        word = "interrupted"
        try:
            answer = await ask()
            word = _WORDS[type(answer)]
        except GatewayRefused:
            word = "refused"
            raise
        except GatewayUnavailable:
            word = "unavailable"
            raise
        finally:
            GATEWAY_SECONDS.observe(time.perf_counter() - started, (self._name, call, word))
        return answer

    def _resting(self, retry_after_s: float) -> GatewayResting:
        return GatewayResting(reason=self._reason, retry_after_s=round(retry_after_s, 3))

    async def _tell_of_changes(self) -> None:
        if self._told == self._breaker.changes:
            return
        self._told = self._breaker.changes
        if not self._breaker.is_open:
            self._since = None
            log.info("the payment gateway answers again")
            await self._tell(None)
            return
        now = datetime.now(UTC)
        if self._since is None:
            self._since = now
            log.warning("the payment gateway is left alone", reason=self._reason)
        until = now + timedelta(seconds=self._breaker.retry_after_s)
        await self._tell(Outage(self._reason, self._since, until))


#: What the metrics call what came of a call.
_WORDS: Mapping[type, str] = {
    Approved: "approved",
    Declined: "declined",
    ActionRequired: "action_required",
    Refunded: "refunded",
    RefundPending: "pending",
    Page: "told",
    type(None): "none",
}
