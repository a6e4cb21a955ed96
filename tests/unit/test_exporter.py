"""What the exporter makes of what BullMQ keeps in Redis."""

from __future__ import annotations

from itertools import pairwise

import pytest

from orderflow.contract import MAX_PRIORITY, Priorities
from orderflow.exporter import queues
from orderflow.exporter.queues import _Ended, _ranges

MINUTE_S = 60
#: A moment in the middle of a minute of the clock.
NOW_S = 1_700_000_000 // MINUTE_S * MINUTE_S + 30


@pytest.mark.parametrize(
    ("minutes_ago", "last_minute"),
    [
        # Jobs ended in this minute; before its first one BullMQ wrote down those of the last.
        (0, 4),
        # None ended in this minute yet: those of the last are what was counted since it began.
        (1, 7),
        (2, 0),
        (600, 0),
    ],
)
def test_the_last_full_minute_is_right_whenever_the_last_job_ended(
    monkeypatch, minutes_ago, last_minute
):
    monkeypatch.setattr(queues.time, "time", lambda: float(NOW_S))
    since_ms = (NOW_S - minutes_ago * MINUTE_S) * 1_000
    ended = _Ended.read("107", "100", str(since_ms), "4")
    assert ended == _Ended(total=107, last_minute=last_minute)


def test_a_queue_where_no_job_ended_has_none():
    assert _Ended.read(None, None, None, None) == _Ended(0, 0)


@pytest.mark.parametrize(
    "priorities",
    [
        Priorities(1, 10, 20),
        Priorities(20, 10, 1),
        Priorities(1, 2, 3),
        Priorities(5, 6, 2_000_000),
    ],
    ids=["ours", "old-node", "neighbours", "far"],
)
def test_each_number_is_in_one_range_by_its_name(priorities):
    ranges = sorted(numbers for _, numbers in _ranges(priorities))
    assert ranges[0][0] == 0
    assert ranges[-1][1] == MAX_PRIORITY
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))
    named = {numbers: name for name, numbers in _ranges(priorities)}
    for name in ("high", "medium", "low"):
        number = getattr(priorities, name)
        assert named[number, number] == name
