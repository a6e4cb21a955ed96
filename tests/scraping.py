"""Scraping as Prometheus does, and reading what comes strictly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import httpx
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def families(port: int) -> dict[str, Metric]:
    """Return the metrics at a loopback port by the name they are documented under."""
    answer = httpx.get(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": _OPENMETRICS}, trust_env=False
    )
    answer.raise_for_status()
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(answer.text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in found, f"{name} is told twice"
        found[name] = family
    return found


class Scrape:
    """One scrape, whose values can be asked for by name and some of the labels."""

    def __init__(self, port: int) -> None:
        self.families = families(port)
        self._samples: Mapping[str, list[Sample]] = defaultdict(list)
        for family in self.families.values():
            for sample in family.samples:
                self._samples[sample.name].append(sample)

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples of a name that have these labels."""
        return [s for s in self._samples[name] if labels.items() <= s.labels.items()]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all series of a name that have these labels, 0 if there is none."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def values(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the value of each series by one of its labels."""
        return {s.labels[label]: s.value for s in self.samples(name, **labels)}
