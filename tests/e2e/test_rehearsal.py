"""`orderflow rehearse`, as a person uses it: carried to the end, broken and gone on with."""

from __future__ import annotations

import json
import signal
import struct
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import Program, start_program, wait_until

PNG = b"\x89PNG\r\n\x1a\n"


class Rehearsal:
    """A folder, and the commands that were run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.programs: list[Program] = []

    def start(self, *options: str, **environment: str) -> Program:
        program = start_program(
            self.folder / f"{len(self.programs)}.log",
            *("orderflow.cli", "rehearse", "--folder", str(self.data), *options),
            environment=environment,
        )
        self.programs.append(program)
        return program

    def run(self, *options: str, **environment: str) -> tuple[int, str]:
        """Run to the end; return the exit status and what was said."""
        program = self.start(*options, **environment)
        return program.process.wait(120), program.log.read_text()

    def placed(self) -> int:
        mark = self.data / "placed"
        return int(mark.read_text().split()[-1]) if mark.exists() and mark.stat().st_size else 0

    def pid(self, name: str) -> int:
        lines = (self.data / "pids.jsonl").read_text().splitlines()
        return next(entry["pid"] for entry in map(json.loads, lines) if entry["name"] == name)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.data / "report.json").read_text())
        return report

    def samples(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.data / "samples.jsonl").read_text().splitlines()]

    def leftovers(self) -> list[psutil.Process]:
        """Return the processes that work in, or on, the folder."""
        # Redis rewrites its command line, but works in its folder.
        return [
            each
            for each in psutil.process_iter(["cmdline", "cwd"])
            if str(self.data) in " ".join([*(each.info["cmdline"] or []), each.info["cwd"] or ""])
        ]


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    # Not pytest's own folder, which other users cannot enter: as root PostgreSQL is one of them.
    with tempfile.TemporaryDirectory(prefix="orderflow-rehearsal-") as folder:
        rehearsal = Rehearsal(Path(folder))
        yield rehearsal
        for program in rehearsal.programs:
            program.process.kill()
            program.process.wait()
        for process in rehearsal.leftovers():
            process.kill()


def checks(report: dict[str, Any], name: str) -> list[str]:
    return [check["message"] for check in report["checks"] if check["name"] == name]


def test_every_order_is_carried_and_counted(rehearsal: Rehearsal):
    status, said = rehearsal.run("--orders", "2000")
    assert status == 0, said
    assert "Everything holds." in said
    assert "NOT OK" not in said
    assert rehearsal.leftovers() == []
    assert not (rehearsal.data / "pids.jsonl").exists()

    report = rehearsal.report()
    assert (report["ok"], report["orders"], report["carried"]) == (True, 2_000, 2_000)
    assert checks(report, "orders")[0] == "2,000 of 2,000: 2,000 confirmed"
    assert checks(report, "charges")[0] == "2,000 of 2,000, for 2,000 different payments"
    assert checks(report, "mails")[0] == "2,000 of 2,000, for 2,000 different orders"
    assert report["memory"].keys() >= {
        "postgres",
        "redis",
        "payment",
        "notification",
        "order",
        "producer",
    }
    assert all(memory["peak_bytes"] > 1_000_000 for memory in report["memory"].values())
    assert 0 < report["redis_peak_bytes"] < 1_000_000_000

    samples = rehearsal.samples()
    steps = ("placed", "paid", "notified")
    assert [samples[-1][step] for step in steps] == [2_000] * 3
    assert all(a[step] <= b[step] for a, b in pairwise(samples) for step in steps)
    latencies = [(s["latency_p50_ms"], s["latency_p99_ms"]) for s in samples]
    assert any(p50 is not None and 0 <= p50 <= p99 for p50, p99 in latencies)

    picture = (rehearsal.data / "report.png").read_bytes()
    assert picture.startswith(PNG)
    width, height = struct.unpack(">II", picture[16:24])
    assert min(width, height) > 500

    # The data are not mixed with those of another one.
    status, said = rehearsal.run("--orders", "2000")
    assert status == 2
    assert "--resume" in said
    assert "--folder" in said


def test_it_goes_on_after_a_crash_and_after_ctrl_c(rehearsal: Rehearsal):
    crashed = rehearsal.start("--orders", "3000")
    wait_until(lambda: rehearsal.placed() >= 500, "the first orders", 60)
    # Held, so that there is something left to do however fast the machine is.
    producer = psutil.Process(rehearsal.pid("producer"))
    producer.suspend()
    status, said = rehearsal.run("--resume")
    assert (status, said) == (
        2,
        f"orderflow rehearse: another rehearsal runs in {rehearsal.data}\n",
    )
    crashed.process.kill()
    crashed.process.wait()
    producer.kill()
    placed = rehearsal.placed()
    assert placed < 3_000
    # The servers and workers go on; nobody is left to end them but the next start.
    assert rehearsal.leftovers() != []

    stopped = rehearsal.start("--resume")
    wait_until(lambda: rehearsal.placed() > placed, "more orders", 60)
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.process.wait(60) == 130
    said = stopped.log.read_text()
    assert "that a rehearsal before this left running" in said
    assert f"orderflow rehearse --resume --folder {rehearsal.data}" in said
    assert "Traceback" not in said
    assert rehearsal.leftovers() == []

    status, said = rehearsal.run("--resume")
    assert status == 0, said
    report = rehearsal.report()
    assert checks(report, "orders")[0] == "3,000 of 3,000: 3,000 confirmed"
    assert report["sittings"] == 3
    assert rehearsal.leftovers() == []


def test_a_worker_that_dies_ends_it_with_a_verdict_that_says_so(rehearsal: Rehearsal):
    program = rehearsal.start("--orders", "20000")
    wait_until(lambda: rehearsal.placed() >= 100, "the first orders", 60)
    psutil.Process(rehearsal.pid("notification")).kill()
    assert program.process.wait(60) == 1
    said = program.log.read_text()
    assert "NOT OK  end            notification ended with status -9" in said
    assert "Not everything holds." in said
    assert not rehearsal.report()["ok"]
    assert rehearsal.leftovers() == []


def test_what_is_missing_is_told_before_anything_starts(rehearsal: Rehearsal):
    hidden = rehearsal.folder / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')"
    )
    status, said = rehearsal.run(PYTHONPATH=str(hidden))
    assert (status, said) == (
        2,
        "matplotlib is missing: pip install 'orderflow[rehearsal]'\n",
    )
    assert not rehearsal.data.exists()


def test_nothing_to_resume(rehearsal: Rehearsal):
    status, said = rehearsal.run("--resume")
    assert status == 2
    assert said == f"orderflow rehearse: there is no rehearsal in {rehearsal.data} to resume\n"
    assert not rehearsal.data.exists()
