"""The shop as a model: how many orders a second it takes on which machines, and what ends it.

    python -m bench.model                # from the costs that are written down; under a minute
    python -m bench.model --measure      # measures these costs on this machine
    python -m bench.model --check        # runs workers, and holds the model against them

docs/scaling.md tells what comes of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.backlog import make_backlog
from bench.machine import busy_percent
from bench.model_costs import SLOTS, measure_costs, measure_rate, open_model_lab
from bench.model_plans import fleets, fleets_table, gateways_table
from bench.model_plot import draw
from bench.model_shop import Costs, Outcome, Plan, pay
from bench.pages import SCALING, put
from bench.report import aligned, number, spread, write_stamped

_RESULTS = Path(__file__).with_name("results")
_COSTS = _RESULTS / "costs.json"
_CHECK = _RESULTS / "model.json"
_PICTURE = Path(__file__).parents[1] / "docs" / "scaling.png"
_ORDERS = 20_000

#: Processes of the payment and of the notification worker that the model is held against.
_CHECKED = ((1, 0), (2, 0), (4, 0), (1, 1), (2, 2))


def main() -> int:
    """Do what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the costs first")
    parser.add_argument("--check", action="store_true", help="hold the model against workers")
    parser.add_argument("--runs", type=int, default=3, help="of each that is checked (default 3)")
    given = parser.parse_args()
    if given.measure:
        write_stamped(_COSTS, {"othersUsedPercent": busy_percent(), **measure_costs(_ORDERS)})
        _say(f"{_COSTS.name} is written.")
    costs = Costs.read(_COSTS)
    _say(f"{_costs_table(costs)}\n")
    if given.check:
        _check(costs, given.runs)
    elif not given.measure:
        found = fleets(costs)
        tables = {"machines": fleets_table(found), "slots": gateways_table(costs)}
        for name, table in tables.items():
            _say(f"{table}\n")
            put(SCALING, name, table)
        put(SCALING, "costs", _costs_table(costs))
        draw(found, _CHECK, _PICTURE)
        _say(f"docs/{SCALING.name} and docs/{_PICTURE.name} are written.")
    return 0


def _costs_table(costs: Costs) -> str:
    rows = [("µs", "Python", "a batch", "Redis", "PostgreSQL", "a batch")]
    rows += [
        (
            name,
            *(
                number(1e6 * seconds)
                for seconds in (
                    stage.python_s,
                    stage.python_batch_s,
                    stage.redis_s,
                    stage.postgres_s,
                    stage.postgres_batch_s,
                )
            ),
        )
        for name, stage in costs.stages.items()
    ]
    turn, flush = (number(1e6 * each) for each in (costs.redis_turn_s, costs.flush_s))
    return f"{aligned(rows)}\na turn of Redis {turn}, a flush of the disk {flush}"


@dataclass(frozen=True)
class _Checked:
    """A rate as it was measured, and as the model has it."""

    what: str
    measured: Sequence[float]
    model: Outcome

    @property
    def error_percent(self) -> float:
        return 100 * (self.model.rate / statistics.median(self.measured) - 1)


def _check(costs: Costs, runs: int) -> None:
    """Run workers on this machine, and say how far the model is off."""
    busy = busy_percent()
    found = []
    with open_model_lab() as lab:
        backlog = make_backlog(lab, _ORDERS)
        for payers, tellers in _CHECKED:
            what = f"{payers} payment" + (f", {tellers} notification" if tellers else "")
            measured = [measure_rate(lab, backlog, payers, tellers) for _ in range(runs)]
            model = pay(costs, _here(payers, tellers), _ORDERS)
            found.append(_Checked(what, measured, model))
            _say(f"{what}: {spread(measured)}/s, the model says {number(model.rate)}")
    rows = [("processes", "measured, orders/s", "model", "error", "busiest in the model")]
    rows += [
        (
            each.what,
            spread(each.measured),
            number(each.model.rate),
            f"{each.error_percent:+.0f} %",
            each.model.bottleneck,
        )
        for each in found
    ]
    _say(f"\n{aligned(rows)}")
    put(SCALING, "check", aligned(rows))
    write_stamped(_CHECK, {"othersUsedPercent": busy, "rows": [_to_json(each) for each in found]})
    _say(f"\nbench/results/{_CHECK.name} is written.")
    if busy > 15:
        _say(f"Before it, others used {busy:.0f} % of the machine.")


def _here(payers: int, tellers: int) -> Plan:
    """Return the plan of this machine, with all on it."""
    programs = {"payment": [0] * payers}
    if tellers:
        programs["notification"] = [0] * tellers
    cores = psutil.cpu_count() or 1
    slots = dict.fromkeys(programs, SLOTS)
    return Plan([cores], redis=[0], postgres=0, programs=programs, slots=slots)


def _to_json(checked: _Checked) -> dict[str, Any]:
    return {
        "processes": checked.what,
        "measured": [round(rate, 1) for rate in checked.measured],
        "model": asdict(checked.model),
        "errorPercent": round(checked.error_percent, 1),
    }


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
