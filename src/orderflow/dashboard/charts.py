"""Charts of the last hour, drawn on the server as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_STEP = 4
_BAR = 3
_HEIGHT = 40


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars by the minute, what failed on top of what completed, as paths of one SVG."""

    width: int
    height: int
    completed: str
    failed: str
    most: int
    label: str


def minutes_chart(completed: Sequence[int], failed: Sequence[int]) -> Chart:
    """Draw counts by the minute, the oldest first; both have one for each minute."""
    most = max((done + lost for done, lost in zip(completed, failed, strict=True)), default=0)
    unit = _HEIGHT / (most or 1)
    done_bars, lost_bars = [], []
    for minute, (done, lost) in enumerate(zip(completed, failed, strict=True)):
        left = minute * _STEP
        # Whatever is there is seen, be it one of thousands.
        tall, red = _tall(done, unit), _tall(lost, unit)
        done_bars.append(_bar(left, _HEIGHT - tall, tall))
        lost_bars.append(_bar(left, max(0, _HEIGHT - tall - red), red))
    return Chart(
        width=len(completed) * _STEP - (_STEP - _BAR),
        height=_HEIGHT,
        completed="".join(done_bars),
        failed="".join(lost_bars),
        most=most,
        label=f"{sum(completed):,} completed and {sum(failed):,} failed in {len(completed)} min, "
        f"{most:,} at most in one",
    )


def _tall(count: int, unit: float) -> float:
    return max(1.0, round(count * unit, 1)) if count else 0.0


def _bar(left: int, top: float, tall: float) -> str:
    return f"M{left} {top:g}h{_BAR}v{tall:g}h-{_BAR}z" if tall else ""
