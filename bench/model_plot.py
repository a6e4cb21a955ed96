"""The picture of the model: held against workers, what machines carry, what a gateway needs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from bench.model_plans import CORES, RATES, Fleet, slots_for

_COLOURS = dict(zip(CORES, ("#c9a227", "#2a7f4f", "#2b5f9e"), strict=True))
_STYLES = {1: "solid", 2: "dashed", 4: "dotted"}


def draw(found: Sequence[Fleet], check: Path, picture: Path) -> None:
    """Draw the fleets, and what a check has found, where there was one."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    _draw_check(left, check)
    _draw_fleets(middle, found)
    _draw_slots(right)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _draw_check(axes: Any, file: Path) -> None:
    axes.set_title("The model beside what was measured", fontsize="medium", loc="left")
    axes.set_ylabel("orders a second")
    if not file.exists():
        return
    content = json.loads(file.read_text())
    rows = content["rows"]
    measured = [statistics.median(row["measured"]) for row in rows]
    below = [each - min(row["measured"]) for each, row in zip(measured, rows, strict=True)]
    above = [max(row["measured"]) - each for each, row in zip(measured, rows, strict=True)]
    at = range(len(rows))
    axes.bar([n - 0.2 for n in at], measured, 0.4, yerr=[below, above], label="measured")
    axes.bar([n + 0.2 for n in at], [row["model"]["rate"] for row in rows], 0.4, label="model")
    axes.set_xticks(at, [row["processes"].replace(", ", ",\n") for row in rows], fontsize="x-small")
    axes.set_xlabel(f"worker processes, on {content['machine']['cores']} cores")
    axes.legend(fontsize="small")


def _draw_fleets(axes: Any, found: Sequence[Fleet]) -> None:
    axes.set_title("What machines carry, by the model", fontsize="medium", loc="left")
    for cores in CORES:
        for shards, style in _STYLES.items():
            line = [each for each in found if (each.cores, each.shards) == (cores, shards)]
            if not line:
                continue
            axes.plot(
                [each.machines for each in line],
                [each.outcome.rate for each in line],
                color=_COLOURS[cores],
                linestyle=style,
                marker="o",
                markersize=3,
                label=f"{cores} cores" if shards == 1 else None,
            )
    axes.plot([], [], color="black", linestyle="dashed", label="queues on 2 Redis")
    axes.plot([], [], color="black", linestyle="dotted", label="on 4")
    axes.set_xlabel("machines")
    axes.set_ylabel("orders a second")
    axes.legend(fontsize="small")


def _draw_slots(axes: Any) -> None:
    axes.set_title("Slots for a gateway that takes its time", fontsize="medium", loc="left")
    seconds = [0.1 * n for n in range(1, 21)]
    for rate in RATES:
        axes.plot(seconds, [slots_for(rate, each) for each in seconds], label=f"{rate:,} a second")
    axes.set_yscale("log")
    axes.set_xlabel("seconds that the gateway takes")
    axes.set_ylabel("slots, of which 70 % work")
    axes.legend(fontsize="small", title="payments")
