"""What the instruments give, as a scrape of it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from orderflow.metrics.instruments import Counter, Gauge, Histogram, Reading


def read(*instruments: Counter | Gauge | Histogram | Reading) -> dict[str, Metric]:
    class Collector:
        def collect(self) -> Iterable[Metric]:
            return [instrument.collect() for instrument in instruments]

    registry = CollectorRegistry()
    registry.register(Collector())
    return {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }


def values(metric: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    # The labels come sorted by their names.
    return {
        tuple(sample.labels.values()): sample.value
        for sample in metric.samples
        if sample.name == metric.name + suffix
    }


def test_a_counter_counts_by_its_labels():
    counter = Counter("jobs_total", "Jobs.", ["queue", "outcome"])
    counter["payments", "failed"] += 1
    counter["payments", "failed"] += 2.5
    counter.begin("payments", "completed")
    counter.begin("payments", "failed")
    metric = read(counter)["jobs"]
    assert metric.type == "counter"
    assert metric.documentation == "Jobs."
    assert values(metric, "_total") == {("failed", "payments"): 3.5, ("completed", "payments"): 0}


def test_a_counter_without_labels_begins_at_0():
    assert values(read(Counter("charges_total", "Charges."))["charges"], "_total") == {(): 0}


def test_to_look_at_a_count_does_not_make_it():
    counter = Counter("jobs_total", "Jobs.", ["queue"])
    assert counter["payments",] == 0
    assert read(counter)["jobs"].samples == []


def test_a_gauge_has_what_was_set_last():
    gauge = Gauge("orders", "Orders.", ["status"])
    gauge["open",] = 4
    gauge["open",] = 3
    assert values(read(gauge)["orders"]) == {("open",): 3}


def test_a_reading_is_read_at_each_scrape_and_added_up_by_labels():
    reading = Reading("slots", "Slots.", ["queue"])
    busy = [1, 2, 4]
    with reading.of(lambda: busy[0], "a"), reading.of(lambda: busy[1], "a"):
        with reading.of(lambda: busy[2], "b"):
            assert values(read(reading)["slots"]) == {("a",): 3, ("b",): 4}
            busy[0] = 10
            assert values(read(reading)["slots"]) == {("a",): 12, ("b",): 4}
        assert values(read(reading)["slots"]) == {("a",): 12}
    assert read(reading)["slots"].samples == []


def test_a_reading_may_be_a_counter():
    reading = Reading("changes_total", "Changes.", family=CounterMetricFamily)
    reading.add(lambda: 7)
    metric = read(reading)["changes"]
    assert metric.type == "counter"
    assert values(metric, "_total") == {(): 7}


def test_a_histogram_counts_what_is_up_to_each_bound():
    histogram = Histogram("run_seconds", "Runs.", (0.1, 1, 10), ["queue"])
    for value in (0.05, 0.1, 0.100001, 1, 5, 10, 10.5):
        histogram.observe(value, ("a",))
    metric = read(histogram)["run_seconds"]
    assert metric.type == "histogram"
    assert values(metric, "_bucket") == {
        ("0.1", "a"): 2,
        ("1.0", "a"): 4,
        ("10.0", "a"): 6,
        ("+Inf", "a"): 7,
    }
    assert values(metric, "_count") == {("a",): 7}
    assert math.isclose(values(metric, "_sum")["a",], 26.750001)


def test_each_bucket_names_the_trace_of_the_last_that_came_with_one():
    histogram = Histogram("run_seconds", "Runs.", (0.1, 1))
    histogram.observe(0.05, trace_id="a" * 32)
    histogram.observe(0.06, trace_id="b" * 32)
    histogram.observe(0.07)
    histogram.observe(3, trace_id="c" * 32)
    buckets = {
        sample.labels["le"]: sample.exemplar
        for sample in read(histogram)["run_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert buckets["1.0"] is None
    for bound, trace_id, value in (("0.1", "b" * 32, 0.06), ("+Inf", "c" * 32, 3)):
        exemplar = buckets[bound]
        assert isinstance(exemplar, Exemplar)
        assert exemplar.labels == {"trace_id": trace_id}
        assert exemplar.value == value
        assert exemplar.timestamp is not None
