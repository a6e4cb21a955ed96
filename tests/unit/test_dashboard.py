"""Numbers, times and charts of the operators' page, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orderflow.dashboard import text
from orderflow.dashboard.charts import minutes_chart
from orderflow.operations.story import StoryEvent

NOW = datetime(2026, 11, 25, 14, 3, 22, 500_000, UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0421, "42 ms"),
        (0.9999, "1000 ms"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_605, "1 h"),
        (7_800, "2 h 10 min"),
        (90_000, "1 d 1 h"),
    ],
    ids=str,
)
def test_a_span_is_told_by_its_two_largest_units(seconds: float, said: str):
    assert text.span(seconds) == said


def test_how_long_ago_or_how_far_away():
    assert text.ago(NOW - timedelta(seconds=12), NOW) == "12 s ago"
    assert text.ago(NOW + timedelta(minutes=2), NOW) == "in 2 min"
    assert text.ago(NOW - timedelta(milliseconds=300), NOW) == "now"


def test_times_are_told_in_utc():
    elsewhere = NOW.astimezone(tz=None)
    assert text.clock(elsewhere) == "2026-11-25 14:03:22.500"
    assert text.iso(elsewhere) == "2026-11-25T14:03:22.500+00:00"


def test_numbers_and_sizes():
    assert [text.grouped(n) for n in (0, 1234567, 0.25, 99.95, 1234.5)] == [
        *("0", "1,234,567", "0.2", "100.0", "1,234")
    ]
    assert [text.size(n) for n in (0, 999, 1_600_000, 123_000_000, 5e15)] == [
        *("0 B", "999 B", "1.6 MB", "123 MB", "5000 TB")
    ]


def test_facts_are_told_in_one_line():
    details = {
        "perSecond": 50,
        "skipped": {"removed": 3},
        "delayed": True,
        "refusals": [["job-1", "it is running"]],
        "rateLimit": None,
    }
    assert text.facts(details) == (
        "per second 50, skipped removed 3, delayed yes, refusals job-1, it is running, "
        "rate limit none"
    )
    assert text.facts({"skipped": {}, "refusals": []}) == "skipped none, refusals none"


def test_what_went_well_and_wrong_in_a_story_is_told_apart():
    def told(kind: str, what: str, **details: str) -> str:
        return text.event_mood(StoryEvent(NOW, kind, what, details))

    assert told("job", "process-payment was added to payment-processing", state="completed") == ""
    assert told("job", "process-payment completed", state="completed") == "ok"
    assert told("job", "process-payment failed", state="failed") == "bad"
    assert told("failure", "attempt 1 failed") == "bad"
    assert told("payment", "the gateway took the money", status="completed") == "ok"
    assert told("message", "payment-failed was sent by email") == "ok"
    assert told("message", "payment-failed by email was refused: no") == "bad"
    assert told("action", "olga did by hand: retry", outcome="partly") == "warn"
    assert told("order", "the order was placed") == ""


def test_a_chart_has_a_bar_for_each_minute_in_which_something_ended():
    chart = minutes_chart([0, 10, 1_000, 0], [0, 0, 1, 2])
    # The second minute is a hundredth of the largest: it is seen all the same.
    assert chart.completed == "M4 39h3v1h-3zM8 0h3v40h-3z"
    assert chart.failed == "M8 0h3v1h-3zM12 39h3v1h-3z"
    assert (chart.width, chart.most) == (15, 1_001)
    assert chart.label == "1,010 completed and 3 failed in 4 min, 1,001 at most in one"


def test_a_chart_of_nothing():
    chart = minutes_chart([0] * 60, [0] * 60)
    assert (chart.completed, chart.failed, chart.most) == ("", "", 0)
