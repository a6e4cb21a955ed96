"""Counters, gauges and histograms in plain numbers, read when they are scraped.

Those of prometheus_client take a lock and a look at the labels for each change, which is 1.0 µs for
a counter and 1.2 µs for a histogram, and a job makes several; these are 0.1 and 0.15 µs. They are
changed and read in the event loop's thread alone.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Counter(dict[Labels, float]):
    """Counts by the values of its labels: `counter[values] += 1`."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        super().__init__()
        self._name = name
        self._help = help_text
        self._labels = labels
        if not labels:
            self.begin()

    def __missing__(self, values: Labels) -> float:
        return 0

    def begin(self, *values: str) -> None:
        """Let the count be there, as 0 if nothing was counted: the first rise is seen then."""
        self.setdefault(values, 0)

    def collect(self) -> Metric:
        """Return the counts of this moment."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self.items():
            family.add_metric(values, count)
        return family


class Gauge(dict[Labels, float]):
    """What was set last, by the values of its labels: `gauge[values] = 3`."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        super().__init__()
        self._name = name
        self._help = help_text
        self._labels = labels

    def collect(self) -> Metric:
        """Return the values of this moment."""
        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for values, value in self.items():
            family.add_metric(values, value)
        return family


class Reading:
    """What is read when it is scraped: a gauge or a counter that lies elsewhere."""

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        family: type[GaugeMetricFamily | CounterMetricFamily] = GaugeMetricFamily,
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._family = family
        self._reads: list[tuple[Labels, Callable[[], float]]] = []

    def add(self, read: Callable[[], float], *values: str) -> None:
        """Read this from now on. What several give for the same labels is added up."""
        self._reads.append((values, read))

    @contextmanager
    def of(self, read: Callable[[], float], *values: str) -> Iterator[None]:
        """Read this while inside."""
        self.add(read, *values)
        try:
            yield
        finally:
            self._reads.remove((values, read))

    def collect(self) -> Metric:
        """Return what is read now."""
        read: dict[Labels, float] = {}
        for values, value in self._reads:
            read[values] = read.get(values, 0) + value()
        family = self._family(self._name, self._help, labels=self._labels)
        for values, total in read.items():
            family.add_metric(values, total)
        return family


class Histogram:
    """How many values are up to each of `bounds`, by the values of its labels."""

    def __init__(
        self, name: str, help_text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._bounds = tuple(bounds)
        self._bounds_as_text = [*map(floatToGoString, bounds), "+Inf"]
        self._series: dict[Labels, _Series] = {}

    def observe(self, value: float, labels: Labels = (), trace_id: str | None = None) -> None:
        """Count a value. Its bucket names the trace until the next one of a trace comes there."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(len(self._bounds) + 1)
        bucket = bisect_left(self._bounds, value)
        series.counts[bucket] += 1
        series.sum += value
        if trace_id is not None:
            series.exemplars[bucket] = trace_id, value, time.time()

    def collect(self) -> Metric:
        """Return the buckets of this moment."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, self._buckets(series), series.sum)
        return family

    def _buckets(self, series: _Series) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        counts = accumulate(series.counts)
        buckets = zip(self._bounds_as_text, counts, series.exemplars, strict=True)
        return [
            (bound, count) if last is None else (bound, count, _exemplar(*last))
            for bound, count, last in buckets
        ]


def _exemplar(trace_id: str, value: float, at: float) -> Exemplar:
    return Exemplar({"trace_id": trace_id}, value, at)


class _Series:
    __slots__ = ("counts", "exemplars", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
        #: The trace, the value, and when it came.
        self.exemplars: list[tuple[str, float, float] | None] = [None] * buckets
