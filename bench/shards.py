"""What a second shard on a second Redis brings: `python -m bench.shards`.

Payments that do nothing are added by some processes, and then worked on by as many: with one queue
on one Redis, and with two shards on a cluster of two, in turn. The rates are by the clock; what
Redis and our processes computed for a job is not made more by others on the machine, and says what
binds: a Redis that computes all the time, or all of the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from bench.machine import busy_percent
from bench.processes import Program, python, wait_until
from bench.report import aligned, number, write_stamped
from orderflow.bull.queues import open_queues
from orderflow.contract import QueueName
from orderflow.queue_names import QueueNames
from orderflow.sandbox.servers import Server, free_port, own_redis, port_is_taken, start_redis
from orderflow.settings import Settings, load_settings

_FILE = Path(__file__).with_name("results") / "shards.json"
#: The two shards of payments are in the two halves of a cluster's slots under this prefix.
_PREFIX = "{bull-*}"
_SLOTS = 16_384
_BUS = 10_000
_PATIENCE_S = 600.0
_LOOK_EVERY_S = 0.005
#: The first of the jobs are not counted: the programs warm up with them.
_WARM = 0.1
#: Of a core, or of all; the rest is what cannot be put to use.
_ALL_OF_IT = 0.85


@dataclass(frozen=True)
class Measured:
    """What came of one side: jobs a second, and microseconds of a core for each job."""

    per_s: float
    redis_us: float
    ours_us: float
    #: How much of one core the busiest Redis took, and all that is measured here of all cores.
    busiest_redis: float
    machine: float


@dataclass(frozen=True)
class Side:
    """One queue on one Redis, or two shards on two."""

    name: str
    settings: Settings
    redis: Sequence[Redis]

    @property
    def names(self) -> QueueNames:
        """What the queues are called."""
        return self.settings.queue_names

    @property
    def environment(self) -> dict[str, str]:
        """What the programs are told."""
        return {
            "REDIS_URL": self.settings.redis_dsn,
            "REDIS_CLUSTER": str(self.settings.redis_cluster),
            "QUEUE_PREFIX": _PREFIX,
            "QUEUE_SHARDS": str(self.settings.queue_shards),
            "LOG_LEVEL": "warning",
        }

    @property
    def queues(self) -> list[str]:
        """The queues that the payments are in."""
        return self.names.shards_of(QueueName.PAYMENTS)

    def added(self) -> int:
        """Return how many jobs wait."""
        return self._sum("ZCARD", "prioritized")

    def completed(self) -> int:
        """Return how many jobs were completed, by BullMQ's own counter."""
        return self._sum("HGET", "metrics:completed", "count")

    async def pause(self) -> None:
        """Let no job be started."""
        async with open_queues(self.settings) as queues:
            await asyncio.gather(*(queues.queue(name).pause() for name in self.queues))

    async def resume(self) -> None:
        """Let jobs be started again."""
        async with open_queues(self.settings) as queues:
            await asyncio.gather(*(queues.queue(name).resume() for name in self.queues))

    def _sum(self, command: str, part: str, *rest: str) -> int:
        pairs = zip(self.redis, self.queues, strict=True)
        return sum(
            int(redis.execute_command(command, self.names.key(queue, part), *rest) or 0)
            for redis, queue in pairs
        )


@contextmanager
def open_side(folder: Path, shards: int) -> Iterator[Side]:
    """Start a Redis for each shard; several are a cluster."""
    with ExitStack() as stack:
        servers = [_start(folder / str(n), shards > 1) for n in range(shards)]
        for server in servers:
            stack.callback(server.stop)
        clients = [stack.enter_context(Redis(port=server.port)) for server in servers]
        settings = load_settings(
            redis_url=servers[0].url,
            redis_cluster=shards > 1,
            redis_timeout_ms=60_000,
            queue_prefix=_PREFIX,
            queue_shards=shards,
        )
        if shards > 1:
            _join(servers, clients)
        yield Side(f"{shards} on {shards}", settings, clients)


def _start(folder: Path, cluster: bool) -> Server:
    port = free_port()
    while port + _BUS >= 2**16 or port_is_taken(port + _BUS):
        port = free_port()
    settings = {"cluster-enabled": "yes"} if cluster else {}
    return start_redis(folder, port, executable=own_redis(), settings=settings)


def _join(servers: Sequence[Server], clients: Sequence[Redis]) -> None:
    """Make a cluster of two; the upper half of the slots has the first shard."""
    half = _SLOTS // 2
    for n, client in enumerate(clients):
        client.execute_command("CLUSTER", "ADDSLOTS", *range((1 - n) * half, (2 - n) * half))
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    clients[1].execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)

    def works(client: Redis) -> bool:
        return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")

    wait_until(lambda: all(map(works, clients)), "the cluster")


@dataclass(frozen=True)
class _Look:
    """What was computed until a moment."""

    at: float
    done: int
    redis_s: list[float]
    ours_s: float


def _look(side: Side, programs: Sequence[Program], done: int) -> _Look:
    used = [client.info("cpu") for client in side.redis]
    redis_s = [float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]) for cpu in used]
    return _Look(time.perf_counter(), done, redis_s, sum(program.cpu_s for program in programs))


def _between(before: _Look, after: _Look) -> Measured:
    took_s, jobs = after.at - before.at, after.done - before.done
    redis_s = [late - early for early, late in zip(before.redis_s, after.redis_s, strict=True)]
    ours_s = after.ours_s - before.ours_s
    return Measured(
        per_s=jobs / took_s,
        redis_us=sum(redis_s) / jobs * 1e6,
        ours_us=ours_s / jobs * 1e6,
        busiest_redis=max(redis_s) / took_s,
        machine=(sum(redis_s) + ours_s) / took_s / (psutil.cpu_count() or 1),
    )


def _until(side: Side, programs: Sequence[Program], jobs: int, done: Any) -> Measured:
    """Measure from the first tenth of the jobs to the last one."""
    looks: list[_Look] = []
    for goal in (jobs * _WARM, jobs):
        deadline = time.monotonic() + _PATIENCE_S
        while (now := done()) < goal:
            for program in programs:
                program.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"{side.name}: {now:,} of {jobs:,} jobs after {_PATIENCE_S:.0f} s")
            time.sleep(_LOOK_EVERY_S)
        looks.append(_look(side, programs, now))
    return _between(*looks)


def measure(folder: Path, shards: int, options: argparse.Namespace) -> dict[str, Measured]:
    """Add the jobs, and work on them, in a fresh place."""
    processes, each = options.processes, options.jobs // options.processes
    with open_side(folder, shards) as side, ExitStack() as stack:

        def start(name: str, *args: str) -> Program:
            command = python("bench.ours.shards", *args)
            program = Program(name, command, side.environment, folder / f"{name}.log")
            stack.callback(program.stop)
            program.expect("ready")
            return program

        adders = [start(f"add-{n}", "add", str(n * each), str(each)) for n in range(processes)]
        for adder in adders:
            adder.say("go")
        adding = _until(side, adders, each * processes, side.added)
        for adder in adders:
            adder.expect("done")
        spread = [
            int(redis.zcard(side.names.key(queue, "prioritized")))
            for redis, queue in zip(side.redis, side.queues, strict=True)
        ]
        if min(spread) < each * processes / shards * 0.9:
            raise SystemExit(f"{side.name}: the jobs are not spread evenly: {spread}")
        asyncio.run(side.pause())
        workers = [start(f"work-{n}", "work", str(options.slots)) for n in range(processes)]
        asyncio.run(side.resume())
        working = _until(side, workers, each * processes, side.completed)
        for worker in workers:
            worker.ask_to_end()
            if worker.status(_PATIENCE_S):
                raise SystemExit(f"{side.name}: a worker did not drain{worker.tail()}")
    return {"add": adding, "work": working}


def _table(runs: dict[int, list[dict[str, Measured]]]) -> tuple[list[list[str]], dict[str, Any]]:
    rows = [
        ["", "jobs/s", "Redis us a job", "ours us a job", "busiest Redis", "all cores", "binds"]
    ]
    figures: dict[str, Any] = {}
    for what in ("add", "work"):
        rates = {}
        for shards, measured in runs.items():
            of_it = [run[what] for run in measured]
            median = {
                field: statistics.median(getattr(one, field) for one in of_it)
                for field in Measured.__dataclass_fields__
            }
            rates[shards] = median["per_s"]
            rows.append(
                [
                    f"{what}, {shards} on {shards}",
                    *(number(median[field]) for field in ("per_s", "redis_us", "ours_us")),
                    *(f"{median[field]:.0%}" for field in ("busiest_redis", "machine")),
                    _binds(median),
                ]
            )
            figures[f"{what}-{shards}"] = median
        figures[f"{what}-ratio"] = rates[2] / rates[1]
        rows.append([f"{what}, ratio", f"{rates[2] / rates[1]:.2f}", "", "", "", "", ""])
    return rows, figures


def _binds(median: dict[str, float]) -> str:
    """Say what there was none left of."""
    if median["busiest_redis"] > _ALL_OF_IT:
        return "Redis"
    return "the cores" if median["machine"] > _ALL_OF_IT else "others, or waiting"


def main() -> None:
    """Measure both sides in turn, and print and keep what came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.shards", description=__doc__)
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--processes", type=int, default=4, help="which add, and which work")
    parser.add_argument("--slots", type=int, default=50, help="of each process that works")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if (busy := busy_percent()) > 10:
        print(f"Others use {busy:.0f}% of the machine: the rates are theirs, too.")
    runs: dict[int, list[dict[str, Measured]]] = {1: [], 2: []}
    for n in range(options.runs):
        for shards, measured in runs.items():
            with tempfile.TemporaryDirectory(prefix="orderflow-bench-") as folder:
                measured.append(measure(Path(folder), shards, options))
            print(f"run {n + 1}, {shards} on {shards}: {measured[-1]['work'].per_s:,.0f} jobs/s")
    rows, figures = _table(runs)
    print(aligned(rows))
    write_stamped(
        _FILE, {"options": vars(options), "othersPercent": round(busy), "figures": figures}
    )


if __name__ == "__main__":
    main()
