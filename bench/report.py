"""What a person reads of the results, and what a program does."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench.processes import PEERS, ROOT, node_version
from bench.rows import Kind, Options, Result
from bench.servers import SERVER_VERSIONS

_HEADINGS = (
    "row",
    "peer, median (min to max)",
    "ours, median (min to max)",
    "unit",
    "ratio",
    "must",
    "aim",
    "",
)


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned text."""
    return aligned([_HEADINGS, *map(_line, results)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of as many cells each as lines, the columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def number(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Return the median of the runs, and between which figures they lie."""
    middle = number(statistics.median(values))
    return f"{middle} ({number(min(values))} to {number(max(values))})"


def _line(result: Result) -> tuple[str, ...]:
    measure = result.measure
    sign = "≥" if measure.kind is Kind.RATE else "≤"
    bound_unit = f" {measure.unit}" if measure.kind is Kind.LIMIT else "x"
    ratio = "" if measure.kind is Kind.LIMIT else f"{result.ratio:.2f}x"
    return (
        measure.name,
        spread(result.peer),
        spread(result.ours),
        measure.unit,
        ratio,
        f"{sign}{measure.must:g}{bound_unit}",
        f"{sign}{measure.aim:g}{bound_unit}",
        result.verdict.upper() if result.verdict == "missed" else result.verdict,
    )


def to_json(result: Result, options: Options) -> dict[str, Any]:
    """Return a result with all that is needed to judge it."""
    measure = result.measure
    return {
        "unit": measure.unit,
        "kind": measure.kind.value,
        "peer": _side(result.peer),
        "ours": _side(result.ours),
        "ratio": round(result.ratio, 4),
        "timesAsGood": round(result.times_as_good, 4),
        "must": measure.must,
        "aim": measure.aim,
        "verdict": result.verdict,
        "busiestBeforePercent": result.busiest_percent,
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "options": asdict(options),
    }


def write(file: Path, results: Mapping[str, dict[str, Any]], order: Sequence[str]) -> None:
    """Write results to `file`, in the place of those with the same name that are in it."""
    kept = json.loads(file.read_text()) if file.exists() else {"versions": {}, "results": {}}
    merged = kept["results"] | dict(results)
    ordered = {name: merged[name] for name in order if name in merged}
    file.parent.mkdir(exist_ok=True)
    content = {
        "machine": machine(),
        "versions": kept["versions"] | _versions(),
        "results": ordered,
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_stamped(file: Path, content: Mapping[str, Any]) -> None:
    """Write what one program measured, with the machine, the time and the commit."""
    stamp = {
        "machine": machine(),
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(stamp | dict(content), indent=2, ensure_ascii=False) + "\n")


def _side(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "runs": [round(value, 4) for value in values],
    }


def machine() -> dict[str, Any]:
    """Return what a figure was measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "node": node_version(),
        **SERVER_VERSIONS,
        **{f"{name} (PyPI)": version(name) for name in ("bullmq", "redis", "asyncpg", "uvloop")},
        **{f"{name} (npm)": pinned for name, pinned in _pinned().items()},
    }


def _pinned() -> Mapping[str, str]:
    dependencies: dict[str, str] = json.loads((PEERS / "package.json").read_text())["dependencies"]
    return dependencies


def commit() -> str:
    """Return the commit that is measured, with a `+` if files were changed since."""
    measured = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "workers")
    return f"{measured}+" if measured and changed else measured


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
