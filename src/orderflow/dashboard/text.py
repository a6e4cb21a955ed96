"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orderflow.operations.story import StoryEvent

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES = ("B", "kB", "MB", "GB", "TB")


def grouped(number: float) -> str:
    """Return a number with its thousands apart; a fraction only where it says something."""
    if number == int(number) or number >= 100:
        return f"{number:,.0f}"
    return f"{number:,.1f}"


def span(seconds: float) -> str:
    """Return a duration by its two largest units, as in `2 h 10 min`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1_000))} ms"
    left = round(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        if left >= length and len(parts) < 2:
            parts.append(f"{left // length} {unit}")
            left %= length
        elif parts:
            break
    return " ".join(parts)


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago it was, or how far away it is."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def clock(moment: datetime) -> str:
    """Return the moment in UTC, to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def iso(moment: datetime) -> str:
    """Return the moment as programs read it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def size(number: float) -> str:
    """Return bytes in the unit that suits them."""
    for unit in _SIZES:
        if number < 1_000 or unit == _SIZES[-1]:
            return (
                f"{number:.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.1f} {unit}"
            )
        number /= 1_000
    raise AssertionError


def facts(details: Mapping[str, Any]) -> str:
    """Return facts as one line: `removed 12, why …`."""
    return ", ".join(f"{_words(name)} {_told(value)}" for name, value in details.items())


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _told(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case int() | float():
            return grouped(value)
        case dict():
            return facts(value) or "none"
        case list():
            return ", ".join(map(_told, value)) or "none"
    return str(value)


#: The colour that goes with a state, an outcome or a kind of event.
_MOODS = {
    "ok": {"done", "completed", "confirmed", "shipped", "delivered", "running", "enabled"},
    "warn": {"partly", "stopped", "paused", "refunded", "lost"},
    "bad": {"failed", "refused", "cancelled", "given up", "disabled"},
}


def mood(word: object) -> str:
    """Return the colour that goes with a word, empty for none."""
    return next((name for name, words in _MOODS.items() if str(word) in words), "")


def pretty(value: Any) -> str:
    """Return JSON to be read, and edited."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def short(identifier: str) -> str:
    """Return the end of an id, which tells it from others: UUIDv7 begin with their time."""
    return "…" + identifier[-8:] if len(identifier) > 12 else identifier


def event_mood(event: StoryEvent) -> str:
    """Return the colour of what happened to an order."""
    match event.kind:
        case "failure" | "charge":
            return "bad"
        case "message":
            return "bad" if "refused" in event.what else "ok"
        case "job":
            # Of what it did it ended in the last; its state goes with each.
            return mood(event.what.rpartition(" ")[2])
    return mood(event.details.get("outcome") or event.details.get("status"))
