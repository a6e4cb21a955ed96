"""Running scenarios: trouble while customers order, then rest, then the verdict and the table."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from orderflow.sandbox.chaos import clients, deaths, servers  # noqa: F401 - they register theirs
from orderflow.sandbox.chaos.customers import Customers
from orderflow.sandbox.chaos.scenarios import SCENARIOS, Run, Scenario
from orderflow.sandbox.chaos.stack import ChaosError, Stack, open_stack
from orderflow.sandbox.chaos.verdict import Verdict, judge
from orderflow.sandbox.servers import ServerError


@dataclass(frozen=True)
class Outcome:
    """What one run of a scenario came to."""

    scenario: Scenario
    seed: int
    verdict: Verdict
    p99_ms: float


def run_chaos(
    names: Sequence[str], *, runs: int, orders: int, seed: int, folder: Path | None
) -> int:
    """Run the scenarios, all unless named, and print their table; return the exit status.

    0: nothing lost, double or wrong. 1: something was, or a scenario did not happen. 2: an unknown
    name, or the shop did not start.
    """
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        _say(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
        return 2
    chosen = [SCENARIOS[name] for name in names or SCENARIOS]
    # As root PostgreSQL runs as a user of its own, which must be able to go there.
    with tempfile.TemporaryDirectory(prefix="orderflow-chaos-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        try:
            outcomes = asyncio.run(_run_all(chosen, runs, orders, seed, place))
        except (ChaosError, ServerError) as error:
            _say(f"orderflow chaos: {error}")
            return 2
    _say("\n" + "\n".join(table(outcomes)))
    return 0 if all(outcome.verdict.holds for outcome in outcomes) else 1


async def _run_all(
    chosen: Sequence[Scenario], runs: int, orders: int, seed: int, folder: Path
) -> list[Outcome]:
    outcomes = []
    async with open_stack(folder) as stack:
        _say(f"seed {seed}; a run can be had again by --seed and --scenario")
        for scenario in chosen:
            _say(f"{scenario.name}: {scenario.what}")
            for number in range(runs):
                outcome = await run_scenario(stack, scenario, orders, seed + number)
                outcomes.append(outcome)
                _say(_told(outcome))
    return outcomes


async def run_scenario(stack: Stack, scenario: Scenario, orders: int, seed: int) -> Outcome:
    """Trouble the shop while at least `orders` are placed; return what came of them."""
    # A string seeds alike in every process, which a hash would not.
    chance = random.Random(f"{scenario.name} {seed}")  # noqa: S311 - to be had again, not secret
    customers = Customers(stack, f"{scenario.name}-{seed}-{chance.randrange(10**6)}", chance)
    over = asyncio.Event()
    ordering = asyncio.create_task(customers.order_until(orders, over), name="customers")
    try:
        faults = await scenario.trouble(Run(stack, customers, chance))
    finally:
        await stack.mend()
        over.set()
        await ordering
    verdict = await judge(stack, customers)
    verdict.wrong += faults
    return Outcome(scenario, seed, verdict, customers.p99_ms)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line a scenario, over all of its runs."""
    lines = [_LINE.format("scenario", "runs", "orders", "lost", "double", "wrong", "p99", "rest")]
    for name in dict.fromkeys(outcome.scenario.name for outcome in outcomes):
        of_name = [outcome for outcome in outcomes if outcome.scenario.name == name]
        verdicts = [outcome.verdict for outcome in of_name]
        lines.append(
            _LINE.format(
                name,
                len(of_name),
                sum(verdict.orders for verdict in verdicts),
                _total(verdicts, lambda verdict: len(verdict.lost)),
                _total(verdicts, lambda verdict: len(verdict.double)),
                _total(verdicts, lambda verdict: len(verdict.wrong)),
                f"{max(outcome.p99_ms for outcome in of_name):,.0f} ms",
                f"{max(verdict.recovery_s for verdict in verdicts):.1f} s",
            )
        )
    return lines


_LINE = "{:<18}{:>5}{:>9}{:>6}{:>8}{:>7}{:>11}{:>9}"


def _total(verdicts: Sequence[Verdict], count: Callable[[Verdict], int]) -> int:
    return sum(map(count, verdicts))


def _told(outcome: Outcome) -> str:
    verdict = outcome.verdict
    said = (
        f"  seed {outcome.seed}: {verdict.orders} orders, at rest after {verdict.recovery_s:.1f} s"
    )
    if verdict.told_twice:
        said += f", {verdict.told_twice} told twice"
    return "\n    ".join([said, *verdict.complaints[:20]])


def _say(text: str) -> None:
    typer.echo(text)
