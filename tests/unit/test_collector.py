"""The collector of a process that serves: rare, and still at work."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from orderflow.collector import collect_rarely, pass_by_what_is_there


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_still_found() -> None:
    collect_rarely()
    gc.collect()
    lost = weakref.ref(_Ring())
    few = [[] for _ in range(5_000)]
    assert lost() is not None
    many = [[] for _ in range(20_000)]
    assert lost() is None
    assert len(few) + len(many) == 25_000


def test_what_was_there_is_passed_by_and_what_comes_is_not() -> None:
    before = weakref.ref(_Ring())
    pass_by_what_is_there()
    after = weakref.ref(_Ring())
    gc.collect()
    assert before() is not None
    assert after() is None
