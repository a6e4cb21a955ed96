"""Many workers on one machine: what they hold and cost at rest, how they share, start and end.

    python -m bench.fleet --workers 100

The shipped payment workers, with a gateway that takes seconds to answer, as separate programs and
then as one with `--processes`. Each fleet is started at once, rests, gets one job after the other,
then more than it can hold, and is ended by SIGTERM in the middle of them: the first with jobs that
still wait, which the second finds when it starts. In the end every order must be paid, and
the gateway asked for it once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from bench.backlog import PAYMENTS, SETTLED, Backlog, make_backlog
from bench.fleet_looks import Connections, Cost, Jobs, Memory, connections, cost, memory
from bench.machine import busy_percent
from bench.pages import SCALING, put
from bench.processes import Program, python, wait_until
from bench.report import aligned, write_stamped
from bench.servers import (
    POSTGRES_SETTINGS,
    SHOP_ORDERS,
    Lab,
    Place,
    add_jobs,
    fetch,
    open_lab,
    with_queues,
)
from orderflow.bull.queues import JobQueues
from orderflow.sandbox.servers import free_port

_RESULTS = Path(__file__).with_name("results")
#: So many workers are what docs/scaling.md tells of; other runs leave it as it is.
_TOLD_OF = 100
_KINDS = ("programs", "processes")
#: Where a job is that is not completed.
_LEFT = ("wait", "active", "prioritized", "delayed", "failed")
#: Jobs for each slot, of which a third is done when a fleet is told to end.
_ROUNDS = 3
_BETWEEN_ADDS_S = 0.02
_LOOK_EVERY_S = 0.25
#: What a start of all at once may take on a slow machine, and the end of a round of jobs.
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class _Options:
    workers: int
    slots: int
    wait_ms: int
    rest_s: float

    @property
    def jobs(self) -> int:
        """How many jobs each of the two fleets is given."""
        return self.workers + self.workers * self.slots * _ROUNDS


@dataclass(frozen=True)
class _Found:
    """What was found of one fleet."""

    start_s: float
    first_working_s: float
    warnings: int
    rest: Cost
    memory_at_rest: Memory
    memory_at_work: Memory
    connections_at_rest: Connections
    connections_at_work: Connections
    pickup_ms_p50: float
    pickup_ms_most: int
    took_a_single_job: int
    work: Cost
    jobs_each_least: int
    jobs_each_median: float
    jobs_each_most: int
    running_at_sigterm: int
    waiting_at_sigterm: int
    drain_s: float
    statuses: list[int]


def main() -> int:
    """Measure, and say what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, default=_TOLD_OF, help="processes (default 100)")
    parser.add_argument("--slots", type=int, default=10, help="jobs at once in each (default 10)")
    parser.add_argument("--wait-ms", type=int, default=5_000, help="the gateway's (default 5000)")
    parser.add_argument("--rest-s", type=float, default=20, help="rest to look at (default 20)")
    given = parser.parse_args()
    options = _Options(given.workers, given.slots, given.wait_ms, given.rest_s)
    busy = busy_percent()
    settings = POSTGRES_SETTINGS | {"max_connections": str(50 + 20 * options.workers)}
    with open_lab("info", postgres=True, settings=settings) as lab:
        _say(f"writing {2 * options.jobs:,} orders")
        backlog = make_backlog(lab, 2 * options.jobs)
        with lab.place(backlog.database) as place, _gateway(lab, options) as gateway:
            redis_alone = cost(lab, [], lambda: time.sleep(options.rest_s)).redis_percent
            run = _Run(lab, place, backlog, gateway, options)
            found = {kind: run.measure(kind) for kind in _KINDS}
            faults, again = run.faults(), run.begun_again()
    content = {
        "options": asdict(options),
        "othersUsedPercent": busy,
        "redisWithoutWorkersPercent": redis_alone,
        "fleets": {kind: asdict(each) for kind, each in found.items()},
        "faults": faults,
        "jobsBegunAgain": again,
    }
    is_told_of = options.workers == _TOLD_OF
    file = _RESULTS / ("fleet.json" if is_told_of else "quick.fleet.json")
    write_stamped(file, content)
    table = _table(found, redis_alone)
    if is_told_of:
        put(SCALING, "fleet", table)
    _say(f"\n{table}\n\nbench/results/{file.name} is written.")
    if busy > 15:
        _say(f"Before it, others used {busy:.0f} % of the machine.")
    _say(f"\n{again} jobs were begun again after an attempt that failed.")
    if faults:
        _say("\n".join(f"NOT OK  {fault}" for fault in faults))
        return 1
    _say(f"OK  {2 * options.jobs:,} orders are paid, charged once each, and no job is left.")
    return 0


@contextmanager
def _gateway(lab: Lab, options: _Options) -> Iterator[str]:
    """Run a gateway that takes its time; give its address."""
    port = free_port()
    command = python("bench.slow_gateway", str(port), str(options.wait_ms))
    url = f"http://127.0.0.1:{port}"
    with lab.running("gateway", command, {}) as program:
        wait_until(lambda: _answers(f"{url}/charges"), "the gateway", [program])
        yield url


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


class _Run:
    """The two fleets, one after the other, on the same servers."""

    def __init__(
        self, lab: Lab, place: Place, backlog: Backlog, gateway: str, options: _Options
    ) -> None:
        self._lab = lab
        self._place = place
        # Kept when they are done, so that each tells who took it.
        self._jobs = [
            {**job, "opts": job["opts"] | {"removeOnComplete": False}} for job in backlog.jobs
        ]
        ids = [job["opts"]["jobId"] for job in self._jobs]
        self._queue = Jobs(lab, f"{place.prefix}:{PAYMENTS}", ids)
        self._gateway = gateway
        self._options = options
        self._added = 0

    def measure(self, kind: str) -> _Found:
        """Start a fleet, look at it, and end it."""
        options, queue = self._options, self._queue
        _say(f"{options.workers} workers as {kind}: starting")
        with ExitStack() as stack:
            begun = time.monotonic()
            programs = [
                stack.enter_context(self._lab.running(name, command, self._environment()))
                for name, command in self._commands(kind)
            ]
            first_s = self._when_working(1, programs, begun)
            start_s = self._when_working(options.workers, programs, begun)
            self._wait(lambda: not queue.waiting() and not queue.count("active"), programs)
            pids = _workers(kind, programs)
            _say(f"  all work after {start_s:.1f} s; resting")
            rest = cost(self._lab, pids, lambda: time.sleep(options.rest_s))
            at_rest = memory(pids), connections(self._lab, self._place)
            before = queue.shares()
            pickups = self._add_singly(options.workers)
            singly = queue.shares() - before
            _say(f"  a job alone waits for {statistics.median(pickups):.0f} ms; working")
            self._add(options.jobs - options.workers)
            at_work: list[Connections] = []
            work = cost(self._lab, pids, lambda: self._work(kind, programs, at_work))
            held = memory(pids)
            running, waiting = queue.count("active"), queue.waiting()
            drain_s, statuses = _end(programs)
            _say(f"  {running} jobs ran at SIGTERM; all ended after {drain_s:.1f} s")
            shares = (queue.shares() - before - singly).values()
        each = [*shares, *[0] * (options.workers - len(shares))]
        return _Found(
            start_s=start_s,
            first_working_s=first_s,
            warnings=self._warnings(kind),
            rest=rest,
            memory_at_rest=at_rest[0],
            memory_at_work=held,
            connections_at_rest=at_rest[1],
            connections_at_work=Connections(
                max(look.redis for look in at_work), max(look.postgres for look in at_work)
            ),
            pickup_ms_p50=statistics.median(pickups),
            pickup_ms_most=max(pickups),
            took_a_single_job=len(singly),
            work=work,
            jobs_each_least=min(each),
            jobs_each_median=statistics.median(each),
            jobs_each_most=max(each),
            running_at_sigterm=running,
            waiting_at_sigterm=waiting,
            drain_s=drain_s,
            statuses=statuses,
        )

    def faults(self) -> list[str]:
        """Return what is not so: each order paid, the gateway asked for it once, no job left."""
        queue, jobs = self._queue, len(self._jobs)
        with urlopen(f"{self._gateway}/charges", timeout=30) as answer:
            asked = json.load(answer)
        settled = fetch(self._place.database_url, SETTLED, SHOP_ORDERS)[0]
        found = {
            "jobs completed": (queue.count("completed"), jobs),
            "jobs left": (sum(map(queue.count, _LEFT)), 0),
            "orders paid": (settled["paid"], jobs),
            "orders that the gateway was asked for": (asked["keys"], jobs),
            "charges that it was asked for": (asked["calls"], jobs),
        }
        return [f"{what}: {n}, not {must}" for what, (n, must) in found.items() if n != must]

    def begun_again(self) -> int:
        """Return how many jobs had more than one attempt."""
        return self._queue.begun_again()

    def _environment(self) -> dict[str, str]:
        # The pool as it is shipped: how many connections it opens is what is looked at.
        return self._place.environment(GATEWAY_URL=self._gateway, DATABASE_POOL_SIZE="10")

    def _commands(self, kind: str) -> Iterator[tuple[str, list[str]]]:
        command = python("orderflow.worker", "payment", "--concurrency", str(self._options.slots))
        if kind == "processes":
            yield kind, [*command, "--processes", str(self._options.workers)]
            return
        for _ in range(self._options.workers):
            yield kind, command

    def _when_working(self, count: int, programs: Sequence[Program], begun: float) -> float:
        """Return after how many seconds so many workers waited for jobs, or had one."""
        start = f"{self._place.prefix}:"

        def working() -> bool:
            names = (str(client["name"]) for client in self._lab.redis.client_list())
            return sum(name.startswith(start) and ":w:" in name for name in names) >= count

        self._wait(working, programs)
        return time.monotonic() - begun

    def _wait(self, answers: Any, programs: Sequence[Program]) -> None:
        def look() -> bool:
            time.sleep(0.1)
            return bool(answers())

        wait_until(look, "the fleet", programs, _PATIENCE_S)

    def _next_jobs(self, count: int) -> list[dict[str, Any]]:
        self._added += count
        return self._jobs[self._added - count : self._added]

    def _add(self, count: int) -> None:
        add_jobs(self._place, PAYMENTS, self._next_jobs(count))

    def _add_singly(self, count: int) -> list[int]:
        """Add one job after the other; return how long each waited for a worker."""
        jobs = self._next_jobs(count)

        async def add(queues: JobQueues) -> None:
            for job in jobs:
                await queues.queue(PAYMENTS).add(job["name"], job["data"], job["opts"])
                await asyncio.sleep(_BETWEEN_ADDS_S)

        with_queues(self._place, add)
        self._wait(lambda: not self._queue.waiting(), [])
        return self._queue.waits_ms([job["opts"]["jobId"] for job in jobs])

    def _work(self, kind: str, programs: Sequence[Program], seen: list[Connections]) -> None:
        """Return when the fleet is in the middle of its work: the last one with none waiting."""
        slots = self._options.workers * self._options.slots
        left = 0 if kind == _KINDS[-1] else slots

        def middle() -> bool:
            time.sleep(_LOOK_EVERY_S)
            seen.append(connections(self._lab, self._place))
            return self._queue.waiting() <= left

        wait_until(middle, "the work", programs, _PATIENCE_S)

    def _warnings(self, kind: str) -> int:
        """Return how many warnings and errors the workers have logged."""
        lines = (
            line
            for log in self._lab.folder.glob(f"*-{kind}.log")
            for line in log.read_text(errors="replace").splitlines()
        )
        return sum('"level": "info"' not in line and '"level":"info"' not in line for line in lines)


def _workers(kind: str, programs: Sequence[Program]) -> list[int]:
    if kind == "processes":
        return [child.pid for child in psutil.Process(programs[0].pid).children()]
    return [program.pid for program in programs]


def _end(programs: Sequence[Program]) -> tuple[float, list[int]]:
    """Send SIGTERM to all; return how long their end took, and their exit statuses, each once."""
    begun = time.monotonic()
    for program in programs:
        program.ask_to_end()
    statuses = {program.status(_PATIENCE_S) for program in programs}
    return time.monotonic() - begun, sorted(statuses)


def _table(found: dict[str, _Found], redis_alone: float) -> str:
    rows = [("", *found)]
    rows += [
        (what, *(value(each) for each in found.values()))
        for what, value in (
            ("first one works, after s", lambda f: f"{f.first_working_s:.1f}"),
            ("all work, after s", lambda f: f"{f.start_s:.1f}"),
            ("warnings and errors", lambda f: f"{f.warnings}"),
            (
                f"Redis at rest, % of a core (alone {redis_alone:.1f})",
                lambda f: f"{f.rest.redis_percent:.1f}",
            ),
            ("commands/s at rest", lambda f: f"{sum(f.rest.commands.values()):.0f}"),
            ("all workers at rest, % of a core", lambda f: f"{f.rest.workers_percent:.0f}"),
            ("a worker at rest, RSS MB", lambda f: f"{f.memory_at_rest.rss:.1f}"),
            ("                  PSS MB", lambda f: f"{f.memory_at_rest.pss:.1f}"),
            ("                  USS MB", lambda f: f"{f.memory_at_rest.uss:.1f}"),
            (
                "a worker at work, PSS, USS MB",
                lambda f: f"{f.memory_at_work.pss:.1f}, {f.memory_at_work.uss:.1f}",
            ),
            ("all workers at work, PSS MB", lambda f: f"{f.memory_at_work.pss_all:,.0f}"),
            (
                "connections at rest, Redis, PostgreSQL",
                lambda f: f"{f.connections_at_rest.redis}, {f.connections_at_rest.postgres}",
            ),
            (
                "connections at work, most",
                lambda f: f"{f.connections_at_work.redis}, {f.connections_at_work.postgres}",
            ),
            (
                "a job alone waits, ms, p50, most",
                lambda f: f"{f.pickup_ms_p50:.0f}, {f.pickup_ms_most}",
            ),
            ("workers that took a job alone", lambda f: f"{f.took_a_single_job}"),
            (
                "jobs of each, least, median, most",
                lambda f: f"{f.jobs_each_least}, {f.jobs_each_median:g}, {f.jobs_each_most}",
            ),
            ("Redis at work, % of a core", lambda f: f"{f.work.redis_percent:.1f}"),
            (
                "at SIGTERM, running, waiting",
                lambda f: f"{f.running_at_sigterm}, {f.waiting_at_sigterm}",
            ),
            ("all ended, after s", lambda f: f"{f.drain_s:.1f}"),
            ("exit statuses", lambda f: ", ".join(map(str, f.statuses))),
        )
    ]
    return aligned(rows)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
