"""What the model is asked: how many orders machines carry, and how many slots a gateway needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.model_shop import STAGES, Costs, Outcome, Plan, pay, sell
from bench.report import aligned, number

#: The way to another machine of the same place and back.
AWAY_S = 0.0003
CORES = (2, 4, 8)
MACHINES = (1, 2, 4, 6, 8, 12)
SHARDS = (2, 4)
_MANY_ORDERS = 5_000_000
_SLOTS = {"checkout": 64, "payment": 50, "notification": 50}

GATEWAYS_S = (0.2, 0.5, 1.0, 2.0)
RATES = (100, 500, 1_000, 2_500)
#: Slots that work, of all: the others are for what comes at once, and for a gateway that is slower.
BUSY_SLOTS = 0.7
#: In one process, as its memory was measured.
_SLOTS_A_PROCESS = 200


@dataclass(frozen=True)
class Fleet:
    """Machines of one size, and what they carry."""

    machines: int
    cores: int
    shards: int
    programs: dict[str, int]
    outcome: Outcome


def fleets(costs: Costs) -> list[Fleet]:
    """Return what each number of machines carries, of each size; several Redis for the largest."""
    one_redis = [fleet(costs, machines, cores, 1) for cores in CORES for machines in MACHINES]
    several = [
        fleet(costs, machines, CORES[-1], shards)
        for shards in SHARDS
        for machines in MACHINES
        # PostgreSQL has one machine, each Redis has one, and the programs have a few.
        if machines >= shards + 3
    ]
    return one_redis + several


def fleet(costs: Costs, machines: int, cores: int, shards: int) -> Fleet:
    """Let the shop sell all that so many machines can carry.

    One machine has all on it; of two, one has the servers; of more, PostgreSQL and each Redis have
    one to themselves.
    """
    servers = {1: 0, 2: 1}.get(machines, 1 + shards)
    redis = range(1, 1 + shards) if servers > 1 else [0] * shards
    programs = _programs(costs, range(servers, machines), cores)
    plan = Plan(
        machines=[cores] * machines,
        redis=list(redis),
        postgres=0,
        programs=programs,
        slots=_SLOTS,
        away_s=AWAY_S,
    )
    at_once = sum(len(programs[stage]) * _SLOTS[stage] for stage in STAGES)
    outcome = sell(costs, plan, customers=at_once, orders=max(5_000, 4 * at_once))
    return Fleet(machines, cores, shards, {name: len(on) for name, on in programs.items()}, outcome)


def _programs(costs: Costs, machines: Sequence[int], cores: int) -> dict[str, list[int]]:
    """Give a process to each core, and to each stage as many as it computes in Python."""
    total_s = sum(stage.python_s for stage in costs.stages.values())
    places = [machine for _ in range(cores) for machine in machines]
    counts = {
        stage: max(1, round(len(places) * costs.stages[stage].python_s / total_s))
        for stage in STAGES
    }
    # Beginning anew where rounding made one more of them than there are cores.
    each = iter(places * 3)
    return {stage: [next(each) for _ in range(count)] for stage, count in counts.items()}


def fleets_table(found: Sequence[Fleet]) -> str:
    """Return a line for each fleet."""
    rows = [("machines", "cores each", "Redis", "processes", "orders/s", "5M orders", "ends at")]
    rows += [
        (
            str(each.machines),
            str(each.cores),
            str(each.shards),
            ", ".join(f"{count} {stage}" for stage, count in each.programs.items()),
            number(each.outcome.rate),
            f"{_MANY_ORDERS / each.outcome.rate / 60:.0f} min",
            each.outcome.bottleneck,
        )
        for each in found
    ]
    return aligned(rows)


def slots_for(rate: float, gateway_s: float) -> int:
    """Return how many slots so many payments a second need: those that wait, and some to spare."""
    return math.ceil(rate * gateway_s / BUSY_SLOTS)


def gateways_table(costs: Costs) -> str:
    """Return how many slots a slow gateway needs, and the most that they carry."""
    rows = [("payments/s", *(f"{gateway_s:g} s" for gateway_s in GATEWAYS_S))]
    for rate in RATES:
        cells = []
        for gateway_s in GATEWAYS_S:
            slots = slots_for(rate, gateway_s)
            cells.append(f"{slots:,} ({number(most_payments(costs, slots, gateway_s).rate)}/s)")
        rows.append((f"{rate:,}", *cells))
    return aligned(rows)


def most_payments(costs: Costs, slots: int, gateway_s: float) -> Outcome:
    """Work off payments with so many slots, on machines that have cores enough."""
    processes = math.ceil(slots / _SLOTS_A_PROCESS)
    plan = Plan(
        machines=[8, 2, max(2, processes)],
        redis=[1],
        postgres=0,
        programs={"payment": [2] * processes},
        slots={"payment": math.ceil(slots / processes)},
        gateway_s=gateway_s,
        away_s=AWAY_S,
    )
    return pay(costs, plan, orders=max(2_000, 5 * slots))
