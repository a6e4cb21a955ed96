"""The circuit breaker, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orderflow.breaker import BreakerOpen, CircuitBreaker, Outage

FAILURES, REST_S, LONGEST_S = 3, 1.0, 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Call:
    """A call that is under way until it is ended."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._attempt: AbstractContextManager[None] = breaker.attempt(OSError)
        self._attempt.__enter__()

    def end(self, error: BaseException | None = None) -> None:
        if error is None:
            self._attempt.__exit__(None, None, None)
        else:
            assert not self._attempt.__exit__(type(error), error, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(FAILURES, REST_S, LONGEST_S, clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        Call(breaker).end(OSError())


def test_it_opens_after_failures_in_a_row(breaker):
    fail(breaker, FAILURES - 1)
    Call(breaker).end()
    fail(breaker, FAILURES - 1)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open
    with pytest.raises(BreakerOpen) as refused:
        Call(breaker)
    assert refused.value.retry_after_s == REST_S
    assert str(refused.value) == "at rest for 1.000 s"


def test_an_answer_of_any_kind_is_a_success(breaker):
    fail(breaker, FAILURES - 1)
    Call(breaker).end(ValueError())
    fail(breaker)
    assert not breaker.is_open


def test_one_probe_goes_through_and_closes_it(breaker, clock):
    fail(breaker, FAILURES)
    clock.now += REST_S
    assert breaker.retry_after_s == 0
    probe = Call(breaker)
    with pytest.raises(BreakerOpen) as refused:
        Call(breaker)
    assert refused.value.retry_after_s == REST_S
    probe.end()
    assert not breaker.is_open
    assert breaker.retry_after_s == 0
    assert breaker.changes == 2
    Call(breaker).end()
    assert breaker.changes == 2


def test_it_rests_for_no_less_than_is_left(breaker, clock):
    fail(breaker, FAILURES)
    clock.now += REST_S - 0.25
    assert breaker.retry_after_s == 0.25
    with pytest.raises(BreakerOpen):
        Call(breaker)
    clock.now += 1
    assert breaker.retry_after_s == 0
    Call(breaker)


def test_each_probe_that_fails_makes_the_rest_longer_up_to_a_bound(breaker, clock):
    fail(breaker, FAILURES)
    rests = []
    for _ in range(5):
        rests.append(breaker.retry_after_s)
        clock.now += breaker.retry_after_s
        fail(breaker)
    assert rests == [1, 2, 4, 5, 5]
    clock.now += LONGEST_S
    Call(breaker).end()
    fail(breaker, FAILURES)
    assert breaker.retry_after_s == REST_S


def test_a_probe_that_is_cancelled_leaves_the_next_one_to_be_made(breaker, clock):
    fail(breaker, FAILURES)
    clock.now += REST_S
    Call(breaker).end(asyncio.CancelledError())
    Call(breaker).end()
    assert not breaker.is_open


def test_what_began_before_it_opened_does_not_count(breaker, clock):
    late = [Call(breaker) for _ in range(4)]
    fail(breaker, FAILURES)
    late[0].end(OSError())
    late[1].end()
    assert breaker.is_open
    assert breaker.retry_after_s == REST_S
    clock.now += REST_S
    probe = Call(breaker)
    late[2].end(OSError())
    probe.end()
    late[3].end(OSError())
    fail(breaker, FAILURES - 1)
    assert not breaker.is_open


def test_one_that_was_no_probe_and_is_cancelled_lets_no_second_probe_through(breaker, clock):
    late = Call(breaker)
    fail(breaker, FAILURES)
    clock.now += REST_S
    Call(breaker)
    late.end(asyncio.CancelledError())
    with pytest.raises(BreakerOpen):
        Call(breaker)


def watched(breaker: CircuitBreaker, error: Exception | None = None) -> None:
    with breaker.watch(OSError):
        if error:
            raise error


def test_of_what_is_watched_the_failures_count_and_the_successes_do_not(breaker, clock):
    for _ in range(FAILURES - 1):
        with pytest.raises(OSError, match="away"):
            watched(breaker, OSError("away"))
        watched(breaker)
        with pytest.raises(ValueError, match="an answer"):
            watched(breaker, ValueError("an answer"))
    assert not breaker.is_open
    with pytest.raises(OSError, match="away"):
        watched(breaker, OSError("away"))
    assert breaker.is_open

    with pytest.raises(BreakerOpen) as refused:
        watched(breaker)
    assert refused.value.retry_after_s == REST_S
    clock.now += REST_S
    for _ in range(2):
        watched(breaker)
        assert breaker.is_open
    Call(breaker)
    with pytest.raises(BreakerOpen):
        watched(breaker)


def test_what_is_watched_and_began_before_it_opened_does_not_count(breaker, clock):
    def late() -> None:
        with breaker.watch(OSError):
            fail(breaker, FAILURES)
            clock.now += REST_S / 2
            raise OSError("late")

    with pytest.raises(OSError, match="late"):
        late()
    assert breaker.retry_after_s == REST_S / 2


def test_an_outage_is_told_in_json():
    since = datetime(2026, 1, 31, 12, tzinfo=UTC)
    outage = Outage("HTTP 503", since, since + timedelta(seconds=2.5))
    assert json.loads(outage.to_json()) == {
        "state": "open",
        "reason": "HTTP 503",
        "since": "2026-01-31T12:00:00+00:00",
        "until": "2026-01-31T12:00:02.500000+00:00",
    }
    assert Outage.from_json(outage.to_json()) == outage


class Breaker(RuleBasedStateMachine):
    """Whatever happens in whatever order, it keeps what it promises."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(FAILURES, REST_S, LONGEST_S, self.clock)
        self.before: list[Call] = []  # began while it was closed
        self.probe: Call | None = None

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def begin(self) -> None:
        was_open, due = self.breaker.is_open, self.breaker.retry_after_s == 0
        try:
            call = Call(self.breaker)
        except BreakerOpen:
            assert not due
            return
        assert due
        if was_open:
            assert self.probe is None
            self.probe = call
        else:
            self.before.append(call)

    @precondition(lambda self: self.before)
    @rule(
        data=st.data(), error=st.sampled_from([None, OSError, ValueError, asyncio.CancelledError])
    )
    def end(self, data: st.DataObject, error: type[BaseException] | None) -> None:
        was_open, rest_s = self.breaker.is_open, self.breaker.retry_after_s
        call = self.before.pop(data.draw(st.integers(0, len(self.before) - 1)))
        call.end(error and error())
        if was_open:
            assert self.breaker.is_open
            assert self.breaker.retry_after_s == rest_s
        elif error is not OSError:
            assert not self.breaker.is_open

    @precondition(lambda self: self.probe)
    @rule(error=st.sampled_from([None, OSError, ValueError, asyncio.CancelledError]))
    def end_probe(self, error: type[BaseException] | None) -> None:
        assert self.probe is not None
        self.probe.end(error and error())
        self.probe = None
        assert self.breaker.is_open == (error in {OSError, asyncio.CancelledError})
        if error is OSError:
            assert self.breaker.retry_after_s > 0

    @invariant()
    def is_reached_again_within_the_longest_rest(self) -> None:
        assert 0 <= self.breaker.retry_after_s <= LONGEST_S


TestBreaker = Breaker.TestCase
