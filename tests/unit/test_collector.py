"""The collector of a process that serves: rare, and still at work."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from orderflow.collector import collect_rarely


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


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
