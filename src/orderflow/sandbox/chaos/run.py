"""Running scenarios: trouble while customers order, then rest, then the verdict and the table."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from orderflow.sandbox.chaos import (  # noqa: F401 - they register theirs
    clients,
    deaths,
    failover,
    machine,
    servers,
)
from orderflow.sandbox.chaos.customers import Customers
from orderflow.sandbox.chaos.opening import open_stack
from orderflow.sandbox.chaos.scenarios import SCENARIOS, Run, Scenario, Skipped
from orderflow.sandbox.chaos.stack import ChaosError, Stack
from orderflow.sandbox.chaos.verdict import Verdict, judge
from orderflow.sandbox.servers import ServerError

T = TypeVar("T")


#: Exit statuses.
_HOLDS, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Plan:
    """What to run: all scenarios if none is named, from a random seed if none is given."""

    names: Sequence[str] = ()
    runs: int = 1
    orders: int = 200
    seed: int | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What one run of a scenario came to."""

    scenario: Scenario
    seed: int
    verdict: Verdict
    p99_ms: float


def list_scenarios() -> list[str]:
    """Return a line a scenario: its name and what happens."""
    return [f"{name:<20}{scenario.what}" for name, scenario in SCENARIOS.items()]


def run_chaos(plan: Plan) -> int:
    """Run the scenarios of `plan` and print their table; return the exit status.

    0: all that is judged holds. 1: something does not. 2: refused. 130: interrupted. Data and logs
    stay in the plan's folder, and where something does not hold, also without one.
    """
    kept = plan.folder
    try:
        _check(plan)
        place = plan.folder or Path(tempfile.mkdtemp(prefix="orderflow-chaos-"))
        place.mkdir(parents=True, exist_ok=True)
        try:
            outcomes = asyncio.run(_until_signal(_run_all(plan, place)))
            holds = all(outcome.verdict.holds for outcome in outcomes)
            kept = kept or (None if holds else place)
        finally:
            if kept is None:
                shutil.rmtree(place)
    except (ChaosError, ServerError) as error:
        _say(f"orderflow chaos: {error}")
        return _REFUSED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    _say("\n" + "\n".join(table(outcomes)))
    if kept:
        _say(f"Data and logs are in {kept}")
    return _HOLDS if holds else _FAILED


def _check(plan: Plan) -> None:
    unknown = [name for name in plan.names if name not in SCENARIOS]
    if unknown:
        there_are = ", ".join(SCENARIOS)
        raise ChaosError(f"no such scenario: {', '.join(unknown)}; there are {there_are}")
    if plan.folder and plan.folder.exists() and any(plan.folder.iterdir()):
        raise ChaosError(f"{plan.folder} is not empty: what is in there would be counted too")


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; a signal that asks for the end lets it stop what it started."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _run_all(plan: Plan, folder: Path) -> list[Outcome]:
    seed = secrets.randbelow(1_000_000) if plan.seed is None else plan.seed
    outcomes = []
    async with open_stack(folder) as stack:
        _say(f"seed {seed}: --seed and --scenario have the same moments again")
        for name in plan.names or SCENARIOS:
            scenario = SCENARIOS[name]
            _say(f"{name}: {scenario.what}")
            for number in range(plan.runs):
                try:
                    outcome = await run_scenario(stack, scenario, plan.orders, seed + number)
                except Skipped as reason:
                    _say(f"  skipped: {reason}")
                    break
                outcomes.append(outcome)
                _say(_told(outcome))
    return outcomes


async def run_scenario(stack: Stack, scenario: Scenario, orders: int, seed: int) -> Outcome:
    """Trouble the shop while at least `orders` are placed; return what came of them.

    Raises Skipped.
    """
    # A string seeds alike in every process, which a hash would not.
    chance = random.Random(f"{scenario.name} {seed}")  # noqa: S311 - to be had again, not secret
    customers = Customers(stack, f"{scenario.name}-{seed}-{chance.randrange(10**6)}", chance)
    over = asyncio.Event()
    ordering = asyncio.create_task(customers.order_until(orders, over), name="customers")
    try:
        faults = await scenario.trouble(Run(stack, customers, orders, chance))
    finally:
        await stack.mend()
        over.set()
        await ordering
    verdict = await judge(stack, customers)
    if verdict.told_twice and not scenario.may_tell_twice:
        verdict.double.append(f"{verdict.told_twice} customers were told twice")
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


_LINE = "{:<20}{:>5}{:>9}{:>6}{:>8}{:>7}{:>11}{:>9}"


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
