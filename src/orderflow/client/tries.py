"""When a request is sent again: after what, after how long, and when no more. No I/O.

A try that got no answer may have been done all the same, so it is sent again as it was, with the
same idempotency key. An answer is the last word, unless it says that only the moment was wrong.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import httpx

from orderflow.client.calls import Call
from orderflow.client.failures import Unanswered, problem_of
from orderflow.retry_after import retry_after_s

log = logging.getLogger("orderflow.client")

T = TypeVar("T")

#: No answer, or only a part of one. What httpx itself finds wrong with a request is not here.
NO_ANSWER = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.ProxyError,
    httpx.RemoteProtocolError,
)

#: Nothing is wrong with these requests but their moment. Of 408 the shop has read no request.
PASSING = frozenset({408, 429, 502, 503, 504})

#: The wait before the second try, and the longest that they grow to, doubling each time.
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
#: More than it takes to get there, and fewer than a float can hold.
_DOUBLINGS = 10
#: How long a call may take with all of its tries, unless the client says otherwise.
DEADLINE_S = 30.0
#: What one step of a try may take: to connect, to send, and each wait for a part of the answer.
STEP_S = 10.0

Outcome = httpx.Response | httpx.TransportError


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after so many seconds."""

    wait_s: float


class Tries(Generic[T]):
    """The tries of one call. They end `deadline_s` after this was made, at the latest."""

    def __init__(
        self,
        call: Call[T],
        deadline_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._call = call
        self._clock = clock
        self._chance = chance
        self._began = clock()
        self._ends = self._began + deadline_s
        self._count = 0

    @property
    def step_s(self) -> float:
        """How long one step of the next try may take, in seconds."""
        # Sockets take 0 for another way of working.
        return max(0.001, min(STEP_S, self._left_s))

    def judge(self, outcome: Outcome) -> T | Again:
        """Return what a try brought, or when to try again.

        Raises Problem or UnreadableAnswer where that is its last word, and Unanswered where there
        is no time for another try.
        """
        self._count += 1
        if isinstance(outcome, httpx.Response) and outcome.status_code not in PASSING:
            return self._call.answer(outcome)
        wait_s = self._wait_s(outcome)
        if wait_s >= self._left_s:
            raise self._unanswered(outcome) from _as_error(outcome)
        log.info(
            "%s %s again in %.2f s: %s",
            self._call.method,
            self._call.path,
            wait_s,
            _as_error(outcome),
        )
        return Again(wait_s)

    @property
    def _left_s(self) -> float:
        return self._ends - self._clock()

    def _wait_s(self, outcome: Outcome) -> float:
        """Return what the server asks for, and on top of it a wait that grows, and is by chance.

        All of those whom it told the same would come back at the same moment else.
        """
        doubled_s = FIRST_WAIT_S * 2.0 ** min(self._count - 1, _DOUBLINGS)
        wait_s = min(LONGEST_WAIT_S, doubled_s) * (1 + self._chance()) / 2
        if isinstance(outcome, httpx.Response):
            wait_s += retry_after_s(outcome.headers, datetime.now(UTC))
        return wait_s

    def _unanswered(self, outcome: Outcome) -> Unanswered:
        return Unanswered(
            method=self._call.method,
            path=self._call.path,
            idempotency_key=self._call.idempotency_key,
            status=outcome.status_code if isinstance(outcome, httpx.Response) else None,
            tries=self._count,
            waited_s=self._clock() - self._began,
            reason=_reason(outcome),
        )


def _as_error(outcome: Outcome) -> Exception:
    return problem_of(outcome) if isinstance(outcome, httpx.Response) else outcome


def _reason(outcome: Outcome) -> str:
    if isinstance(outcome, httpx.Response):
        return f"{outcome.status_code} {problem_of(outcome).reason}"
    return f"{type(outcome).__name__} {outcome}".strip().rstrip(".")
