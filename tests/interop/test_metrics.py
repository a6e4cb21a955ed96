"""The exporter's counters are BullMQ's own, so they count what Node ran, and outlive jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.interop.conftest import NODE_OPTIONS, foreign_data
from tests.scraping import Scrape

from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.settings import Settings

PAYMENTS = "payment-processing"
START_METRICS = {"metrics": {"maxDataPoints": 60}}


class Exporter:
    """The exporter, which a test may stop and start anew."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._log = folder / "exporter.log"
        self._port = free_port()
        self._program: Program | None = None

    def start(self) -> None:
        environment = process_environment(self._settings) | {"EXPORTER_PORT": str(self._port)}
        self._program = start_program(self._log, "orderflow.exporter", environment=environment)
        wait_until(lambda: port_is_taken(self._port), "the exporter")

    def stop(self) -> None:
        assert self._program is not None
        assert self._program.stop() == 0

    def totals(self) -> tuple[float, float]:
        """Return how many payments completed and failed, by both names of each counter."""
        scrape = Scrape(self._port)
        completed, failed = (
            {scrape.sum(f"bullmq_{jobs}_{how}_total", queue=PAYMENTS) for jobs in ("job", "jobs")}
            for how in ("completed", "failed")
        )
        assert len(completed) == len(failed) == 1
        return completed.pop(), failed.pop()

    def told(self) -> dict[tuple[str, str], float]:
        """Return what is told of the queue of payments, by name and state."""
        samples = (
            sample
            for family in Scrape(self._port).families.values()
            for sample in family.samples
            if sample.labels.get("queue") == PAYMENTS
        )
        return {(s.name, s.labels.get("state", "")): s.value for s in samples}

    def workers(self) -> float:
        return Scrape(self._port).sum("orderflow_workers_connected", queue=PAYMENTS)


@pytest.fixture
def exporter(settings: Settings, tmp_path: Path) -> Iterator[Exporter]:
    exporter = Exporter(settings, tmp_path)
    exporter.start()
    yield exporter
    exporter.stop()


def test_jobs_that_node_ran_are_counted(node, exporter):
    assert exporter.totals() == (0, 0)
    node.ask("startWorker", queue=PAYMENTS, opts=START_METRICS)
    wait_until(lambda: exporter.workers() == 1, "Node's worker")
    for _ in range(3):
        node.add(PAYMENTS, "process-payment", foreign_data(), NODE_OPTIONS)
    node.add(PAYMENTS, "process-payment", {"unrecoverable": "no use"}, NODE_OPTIONS)
    wait_until(lambda: exporter.totals() == (3, 1), "Node's jobs in the counters")


def test_counters_count_both_and_outlive_jobs_and_exporter(node, start_worker, exporter, keys):
    node.ask("startWorker", queue=PAYMENTS, opts=START_METRICS)
    node.add(PAYMENTS, "process-payment", foreign_data(), NODE_OPTIONS)
    wait_until(lambda: exporter.totals() == (1, 0), "Node's job")
    node.ask("stopWorker", queue=PAYMENTS)

    start_worker("payment")
    for _ in range(2):
        node.add(PAYMENTS, "process-payment", foreign_data(), NODE_OPTIONS)
    node.add(PAYMENTS, "no such job", {}, NODE_OPTIONS)
    wait_until(lambda: exporter.totals() == (3, 1), "our jobs")

    for state in ("completed", "failed"):
        for job_id in keys(PAYMENTS).ids(state):
            node.ask("onJob", queue=PAYMENTS, jobId=job_id, method="remove")
    assert keys(PAYMENTS).count("completed") == keys(PAYMENTS).count("failed") == 0
    assert exporter.totals() == (3, 1)
    exporter.stop()
    exporter.start()
    assert exporter.totals() == (3, 1)


def test_all_that_bullmq_exports_itself_is_told_in_its_own_names(node, start_worker, exporter):
    """With jobs in each state that Node tells of."""
    start_worker("payment")
    data = foreign_data()
    node.add(PAYMENTS, "process-payment", data, NODE_OPTIONS)
    node.add(PAYMENTS, "no such job", {}, NODE_OPTIONS)
    wait_until(lambda: exporter.totals() == (1, 1), "two ends")
    node.add(PAYMENTS, "process-payment", data, NODE_OPTIONS | {"delay": 3_600_000})
    text = node.ask("exportPrometheusMetrics", queue=PAYMENTS)
    theirs = {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text + "\n")
        for sample in family.samples
    }
    assert theirs["bullmq_job_count", "delayed"] == theirs["bullmq_job_count", "failed"] == 1
    assert theirs["bullmq_job_completed_total", ""] == 1
    ours = exporter.told()
    assert {key: ours.get(key) for key in theirs} == theirs
