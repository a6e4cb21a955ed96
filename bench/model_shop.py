"""The shop as a model: its programs on their machines, and the way of an order through them.

What is in it: each process computes one thing at a time and needs a core for that; statements go
in batches, each to a backend of PostgreSQL that needs a core too, and to a flush of the log that
it shares with others; Redis does one command after the other. What is not: how the kernel divides
a core among those that want it, what a core loses to its neighbours, checkpoints, and all that
goes wrong.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.simulation import (
    Batches,
    Disk,
    Line,
    Server,
    Simulation,
    Step,
    Thread,
    Turns,
    Wire,
    Work,
)
from orderflow.db.batcher import MAX_SIZE, MAX_UNDER_WAY

#: Of the orders of a run, the first part fills the lines and the batches.
_WARM_UP = 0.2
#: A checkout is one statement; a payment and a notification are two.
_STATEMENTS = {"checkout": 1, "payment": 2, "notification": 2}
STAGES = tuple(_STATEMENTS)
#: Commands that are sent before the turn is over, as orderflow/bull/wire.py has it; the first are
#: more there when there are usually more.
_FIRST, _MORE = 4, 16


@dataclass(frozen=True)
class StageCosts:
    """What one order costs at one stage, and what a batch costs besides, in seconds of a core."""

    python_s: float
    python_batch_s: float
    redis_s: float
    postgres_s: float
    postgres_batch_s: float


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds.

    `redis_turn_s` is what Redis takes for each time that it looks for commands, and `flush_s` how
    long the disk takes to have what was committed.
    """

    stages: dict[str, StageCosts]
    redis_turn_s: float
    flush_s: float

    @classmethod
    def read(cls, file: Path) -> Costs:
        """Read what `python -m bench.model --measure` wrote."""
        content = json.loads(file.read_text())
        stages = {name: StageCosts(**costs) for name, costs in content["stages"].items()}
        return cls(stages, content["redis_turn_s"], content["flush_s"])


@dataclass(frozen=True)
class Plan:
    """Machines, by their cores, and which of them each program runs on.

    `programs` has a machine for each process of a stage. A process has `slots` jobs, or requests,
    at once. `redis` has a machine for each Redis, among which orders are spread. `away_s` is the
    way to another machine and back.
    """

    machines: Sequence[int]
    redis: Sequence[int]
    postgres: int
    programs: dict[str, Sequence[int]]
    slots: dict[str, int]
    gateway_s: float = 0.0
    sender_s: float = 0.0
    away_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a run came to: orders a second, and how busy each part was, from 0 to 1."""

    rate: float
    busy: dict[str, float]
    batch_size: float

    @property
    def bottleneck(self) -> str:
        """The busiest part; waiting, where none has much to do.

        The disk is none: it flushes for all who wait, so that it is always busy and never full.
        """
        parts = [part for part in self.busy if part != "disk"]
        name = max(parts, key=lambda part: self.busy[part])
        return name if self.busy[name] > 0.85 else "waiting"


def pay(costs: Costs, plan: Plan, orders: int) -> Outcome:
    """Work off so many orders that wait for their payment, until the last customer is told.

    Without a process for notifications they are only paid.
    """
    return _Shop(costs, plan, waiting=orders, customers=0).run(orders)


def sell(costs: Costs, plan: Plan, customers: int, orders: int) -> Outcome:
    """Let so many customers order without a pause, each again when told of the order before."""
    return _Shop(costs, plan, waiting=0, customers=customers).run(orders)


@dataclass
class _Process:
    thread: Thread
    machine: int
    wires: list[Wire]
    statements: list[Batches] = field(default_factory=list)


class _Shop:
    def __init__(self, costs: Costs, plan: Plan, *, waiting: int, customers: int) -> None:
        self._costs = costs
        self._plan = plan
        self._chance = random.Random(1)
        self._simulation = Simulation()
        self._cores = [Server(self._simulation, cores) for cores in plan.machines]
        self._redis = [Turns(self._cores[machine], costs.redis_turn_s) for machine in plan.redis]
        self._turn = itertools.count()
        self._disk = Disk(self._simulation, costs.flush_s)
        # Of PostgreSQL's own use of its machine's cores, which others may be on.
        self._postgres_s = 0.0
        self._lines = dict(zip(STAGES, (Line(customers), Line(waiting), Line()), strict=True))
        self._done = 0
        self._processes = {
            stage: [self._process(stage, machine) for machine in machines]
            for stage, machines in plan.programs.items()
        }

    def run(self, orders: int) -> Outcome:
        """Run until so many orders are through."""
        for stage, processes in self._processes.items():
            for process in processes:
                for _ in range(self._plan.slots[stage]):
                    self._simulation.start(self._slot(stage, process))
        first = int(orders * _WARM_UP)
        self._simulation.run(lambda: self._done >= first)
        from_s, before = self._simulation.now, self._busy_s()
        first = self._done
        self._simulation.run(lambda: self._done >= orders)
        took_s = self._simulation.now - from_s
        busy = {part: (busy - before[part]) / took_s for part, busy in self._busy_s().items()}
        return Outcome((self._done - first) / took_s, busy, self._batch_size())

    def _batch_size(self) -> float:
        batches = [
            batches.batches
            for processes in self._processes.values()
            for process in processes
            for batches in process.statements
        ]
        statements = sum(_STATEMENTS[stage] for stage in self._processes)
        return self._done * statements / max(1, sum(batches))

    def _process(self, stage: str, machine: int) -> _Process:
        thread = Thread(self._cores[machine])
        wires = [
            Wire(
                self._simulation,
                thread,
                redis,
                away_s=self._away_s(machine, there),
                first=_FIRST,
                more=_MORE,
            )
            for redis, there in zip(self._redis, self._plan.redis, strict=True)
        ]
        process = _Process(thread, machine, wires)
        costs = self._costs.stages[stage]

        def run(size: int) -> Work:
            yield thread.compute(costs.python_batch_s)
            seconds = costs.postgres_batch_s + size * costs.postgres_s / _STATEMENTS[stage]
            self._postgres_s += seconds
            yield self._simulation.wait(self._away_s(machine, self._plan.postgres))
            yield self._cores[self._plan.postgres].use(seconds)
            yield self._disk.flush()

        for _ in range(_STATEMENTS[stage]):
            process.statements.append(
                Batches(self._simulation, thread, run, MAX_SIZE, MAX_UNDER_WAY)
            )
        return process

    def _slot(self, stage: str, process: _Process) -> Work:
        """Do one job, or request, after the other."""
        costs, line = self._costs.stages[stage], self._lines[stage]
        statements = process.statements
        # Before, between and after what it waits for.
        part_s = costs.python_s / (len(statements) + 2)
        while True:
            yield line.take()
            yield process.thread.compute(part_s)
            yield statements[0].ask()
            yield process.thread.compute(part_s)
            if len(statements) > 1:
                yield from self._outside(stage)
                yield statements[1].ask()
                yield process.thread.compute(part_s)
            yield from self._commands(stage, process)
            yield process.thread.compute(part_s)
            self._pass_on(stage)

    def _outside(self, stage: str) -> Iterator[Step]:
        """Wait for the gateway or the mail server: from half to one and a half of their time."""
        middle_s = self._plan.gateway_s if stage == "payment" else self._plan.sender_s
        if middle_s:
            yield self._simulation.wait(middle_s * self._chance.uniform(0.5, 1.5))

    def _commands(self, stage: str, process: _Process) -> Iterator[Step]:
        """Add the job that follows; end one's own and take the next, where there is one."""
        commands = {"checkout": 1, "payment": 2, "notification": 1}[stage]
        for _ in range(commands):
            wire = process.wires[next(self._turn) % len(process.wires)]
            yield wire.ask(self._costs.stages[stage].redis_s / commands)

    def _away_s(self, here: int, there: int) -> float:
        return 0.0 if here == there else self._plan.away_s

    def _pass_on(self, stage: str) -> None:
        following = STAGES[STAGES.index(stage) + 1 :]
        if following and following[0] in self._processes:
            self._lines[following[0]].put()
            return
        self._done += 1
        if "checkout" in self._processes:
            self._lines["checkout"].put()

    def _busy_s(self) -> dict[str, float]:
        """Return how long each part was busy, divided by how many it has."""
        parts = {
            "Redis": sum(redis.busy_s for redis in self._redis) / len(self._redis),
            "disk": self._disk.busy_s,
        }
        on_postgres = self._plan.machines[self._plan.postgres]
        parts["PostgreSQL"] = self._postgres_s / on_postgres
        for stage, processes in self._processes.items():
            parts[stage] = sum(each.thread.busy_s for each in processes) / len(processes)
        shared = {machine for machines in self._plan.programs.values() for machine in machines}
        cores = sum(self._cores[machine].places for machine in shared)
        parts["cores"] = sum(self._cores[machine].busy_s for machine in shared) / cores
        return parts
