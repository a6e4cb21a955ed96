"""The results as a picture: a bar for each, and lines for what it must and should reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_COLOURS = {"aim met": "#2a7f4f", "must met": "#c9a227", "missed": "#b3402e"}


def draw(file: Path) -> None:
    """Draw the results of a JSON file into a PNG beside it."""
    content = json.loads(file.read_text())
    results: dict[str, dict[str, Any]] = content["results"]
    names = list(results)[::-1]
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.34 * len(names)), layout="constrained")
    for height, name in enumerate(names):
        _draw_bar(axes, height, results[name])
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.axvline(1, color="#888888", linewidth=0.8, zorder=0)
    axes.set_xlabel("orderflow is so many times as good as its peer, or as its limit asks")
    axes.set_title("Must: solid line; aim: dashed line", fontsize="medium", loc="left")
    machine = content["machine"]
    figure.supxlabel(f"{machine['cpu']}, {machine['cores']} cores", fontsize="x-small")
    figure.savefig(file.with_suffix(".png"), dpi=120)
    plt.close(figure)


def _draw_bar(axes: Any, height: int, result: dict[str, Any]) -> None:
    good = result["timesAsGood"]
    axes.barh(height, good, height=0.6, color=_COLOURS[result["verdict"]])
    for bound, style in (("must", "solid"), ("aim", "dashed")):
        at = _as_good(result, result[bound])
        axes.vlines(at, height - 0.4, height + 0.4, color="black", linestyle=style, linewidth=1.4)
    # Last, and on white: a bound may lie where the figure does.
    axes.annotate(
        f"{good:.2f}",
        (good, height),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def _as_good(result: dict[str, Any], bound: float) -> float:
    """Return how many times as good a side is that just reaches a bound."""
    if result["kind"] == "limit":
        return float(result["must"] / bound)
    return float(bound if result["kind"] == "rate" else 1 / bound)
