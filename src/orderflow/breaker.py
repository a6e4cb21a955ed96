"""A circuit breaker: what is asked in vain is left alone for a while, and then asked once.

It does no I/O and has no lock: all calls are made from one event loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime


class BreakerOpen(Exception):
    """The call was not made: those before it failed. `retry_after_s` says when to ask again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"at rest for {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s


class CircuitBreaker:
    """Opens after `failures` in a row, and closes with the first success after that.

    While open it rests for `rest_s`, and then lets one call through, the probe. Each probe that
    fails doubles the rest, up to `longest_rest_s`.

    Many calls may be under way at once. Those that began before the breaker opened or closed say
    nothing of the time since, so what becomes of them does not count.
    """

    def __init__(
        self,
        failures: int,
        rest_s: float,
        longest_rest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._first_rest_s = rest_s
        self._longest_rest_s = longest_rest_s
        self._clock = clock
        self._in_a_row = 0
        self._rest_s = rest_s
        self._rests_until = 0.0
        self._probing = False
        self.is_open = False
        #: How often it opened, anew or again, and closed.
        self.changes = 0

    @property
    def retry_after_s(self) -> float:
        """How long until a call may be let through; 0 if one may be now."""
        if not self.is_open:
            return 0.0
        if self._probing:
            return self._first_rest_s
        return max(0.0, self._rests_until - self._clock())

    def attempt(self, *failures: type[Exception]) -> Attempt:
        """Return the context of a call, which learns from its end: `failures` are failures.

        Any other exception is an answer, so it is a success; a cancellation is neither. Entering
        it raises BreakerOpen, before anything is done.
        """
        return Attempt(self, failures)

    @contextmanager
    def watch(self, *failures: type[Exception]) -> Iterator[None]:
        """Let a call be made whose failures count as in `attempt`, and whose success says nothing.

        Any number of them is let through once the rest is over. Raises BreakerOpen.
        """
        if self.retry_after_s > 0:
            raise BreakerOpen(self.retry_after_s)
        change = self.changes
        try:
            yield
        except failures:
            self.failed(change)
            raise

    def admit(self) -> int:
        """Return the change since which a call counts. Raises BreakerOpen."""
        if self.is_open:
            if self._probing or self.retry_after_s > 0:
                raise BreakerOpen(self.retry_after_s)
            self._probing = True
        return self.changes

    def failed(self, change: int) -> None:
        """Count a failure of a call that was admitted at `change`."""
        if change != self.changes:
            return
        self._in_a_row += 1
        if self.is_open:
            self._rest_s = min(2 * self._rest_s, self._longest_rest_s)
        elif self._in_a_row < self._failures:
            return
        self._change(is_open=True)

    def succeeded(self, change: int) -> None:
        """Count an answer to a call that was admitted at `change`."""
        if change != self.changes:
            return
        self._in_a_row = 0
        if self.is_open:
            self._rest_s = self._first_rest_s
            self._change(is_open=False)

    def gave_up(self, change: int) -> None:
        """Let another one be the probe, if that call was."""
        if change == self.changes:
            self._probing = False

    def _change(self, *, is_open: bool) -> None:
        self.changes += 1
        self._probing = False
        self.is_open = is_open
        self._rests_until = self._clock() + self._rest_s


class Attempt:
    """The context of one call. A generator would cost a checkout three times as much."""

    __slots__ = ("_breaker", "_change", "_failures")

    def __init__(self, breaker: CircuitBreaker, failures: tuple[type[Exception], ...]) -> None:
        self._breaker = breaker
        self._failures = failures
        self._change = 0

    def __enter__(self) -> None:
        """Begin. Raises BreakerOpen."""
        self._change = self._breaker.admit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Learn from the end."""
        if kind is not None and issubclass(kind, self._failures):
            self._breaker.failed(self._change)
        elif kind is None or issubclass(kind, Exception):
            self._breaker.succeeded(self._change)
        else:
            self._breaker.gave_up(self._change)


@dataclass(frozen=True, slots=True)
class Outage:
    """What is told in Redis of a breaker that is open: why, since when, and until when it rests."""

    reason: str
    since: datetime
    until: datetime

    def to_json(self) -> str:
        """Return the text that is kept in Redis."""
        times = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return json.dumps({"state": "open", "reason": self.reason, **times})

    @classmethod
    def from_json(cls, text: str) -> Outage:
        """Read what was kept."""
        kept = json.loads(text)
        times = (datetime.fromisoformat(kept[name]) for name in ("since", "until"))
        return cls(kept["reason"], *times)
