"""How far a rehearsal is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from orderflow.sandbox.rehearsal.sampling import Sample

Show = Callable[[Sample], None]

#: The rate is that of the last samples, one a second.
_RATE_OVER = 30
_LINE_EVERY_S = 10.0


@contextmanager
def shown_progress(orders: int) -> Iterator[Show]:
    """Give a function that shows each sample; the bar is gone on leaving."""
    console = Console()
    if console.is_terminal:
        columns = (BarColumn(), TextColumn("{task.percentage:3.0f}%  {task.fields[state]}"))
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=3 * orders, state="")
            state = _State(orders)

            def move(sample: Sample) -> None:
                bar.update(task, completed=sum(sample.moved), state=state.after(sample))

            yield move
    else:
        yield _Lines(orders).show


class _Lines:
    """Prints a line every ten seconds."""

    def __init__(self, orders: int) -> None:
        self._state = _State(orders)
        self._next_s = 0.0

    def show(self, sample: Sample) -> None:
        text = self._state.after(sample)
        if sample.elapsed_s >= self._next_s:
            print(f"{sample.elapsed_s:6.0f} s  {text}", flush=True)  # noqa: T201
            self._next_s = sample.elapsed_s + _LINE_EVERY_S


class _State:
    """Puts counts, rate and time left into words."""

    def __init__(self, orders: int) -> None:
        self._orders = orders
        self._recent: deque[Sample] = deque(maxlen=_RATE_OVER)

    def after(self, sample: Sample) -> str:
        """Return the state as of this sample."""
        self._recent.append(sample)
        notified_per_s, steps_per_s = self._rates()
        return (
            f"placed {sample.placed:,}  paid {sample.paid:,}  notified {sample.notified:,}"
            f"  {notified_per_s:,.0f}/s  left {self._left(sample, steps_per_s)}"
        )

    def _rates(self) -> tuple[float, float]:
        first, last = self._recent[0], self._recent[-1]
        seconds = last.elapsed_s - first.elapsed_s
        if seconds <= 0:
            return 0.0, 0.0
        steps = sum(last.moved) - sum(first.moved)
        return (last.notified - first.notified) / seconds, steps / seconds

    def _left(self, sample: Sample, steps_per_s: float) -> str:
        # By all three steps: the first orders are placed faster than they are notified.
        steps = 3 * self._orders - sum(sample.moved)
        if steps_per_s <= 0:
            return "?"
        minutes, seconds = divmod(round(steps / steps_per_s), 60)
        return f"{minutes}:{seconds:02}"
