"""The picture of a rehearsal: rates, queues, memory and latency over its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orderflow.sandbox.rehearsal.sampling import Sample

_MIB = 1_048_576
#: More points than this only blur.
_POINTS = 400


def draw(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Write a PNG with four panels over one axis of time."""
    figure = Figure(figsize=(14, 14), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(4, sharex=True)
    thinned = samples[:: len(samples) // _POINTS + 1]
    for draw_panel, panel in zip((_rates, _queues, _memory, _latency), panels, strict=True):
        draw_panel(panel, thinned)
        panel.grid(visible=True, alpha=0.3)
        panel.set_ylim(bottom=0)
        # Beside the panel, where it hides no line.
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)


def _rates(panel: Axes, samples: Sequence[Sample]) -> None:
    counts: dict[str, Callable[[Sample], int]] = {
        "placed": lambda sample: sample.placed,
        "paid": lambda sample: sample.paid,
        "notified": lambda sample: sample.notified,
    }
    # A break of the rehearsal is not a second that was slow.
    pairs = [(a, b) for a, b in pairwise(samples) if a.sitting == b.sitting]
    seconds = [after.elapsed_s for _, after in pairs]
    for label, count in counts.items():
        rates = [(count(b) - count(a)) / (b.elapsed_s - a.elapsed_s) for a, b in pairs]
        panel.plot(seconds, rates, label=label)
    panel.set_ylabel("orders per second")


def _queues(panel: Axes, samples: Sequence[Sample]) -> None:
    for name in _names(sample.queues for sample in samples):
        depths = [sample.queues[name].total for sample in samples]
        panel.plot(_seconds(samples), depths, label=name)
    panel.set_ylabel("jobs in the queue")


def _memory(panel: Axes, samples: Sequence[Sample]) -> None:
    for name in _names(sample.rss_bytes for sample in samples):
        sizes = [sample.rss_bytes.get(name, 0) / _MIB or float("nan") for sample in samples]
        panel.plot(_seconds(samples), sizes, label=name)
    used = [sample.redis_bytes / _MIB for sample in samples]
    panel.plot(_seconds(samples), used, label="redis used_memory", color="black", linestyle="--")
    panel.set_ylabel("MiB")


def _latency(panel: Axes, samples: Sequence[Sample]) -> None:
    percentiles: dict[str, Callable[[Sample], int | None]] = {
        "p50": lambda sample: sample.latency_p50_ms,
        "p99": lambda sample: sample.latency_p99_ms,
    }
    for label, value in percentiles.items():
        known = [(s.elapsed_s, ms) for s in samples if (ms := value(s)) is not None]
        panel.plot([s for s, _ in known], [ms / 1_000 for _, ms in known], label=label)
    panel.set_ylabel("seconds from checkout to mail")


def _seconds(samples: Sequence[Sample]) -> list[float]:
    return [sample.elapsed_s for sample in samples]


def _names(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))
