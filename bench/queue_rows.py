"""Rows about the queue alone: taking jobs, adding them, and waking up for one."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from bench.ours.drain import count as count_turns
from bench.processes import Program, node, python, wait_until
from bench.rows import MeasureSide, Options, Row, Side, Values, cost, rate
from bench.servers import Lab, Place, QueueWatch, add_jobs, now_s, open_lab, percentile
from bench.watch import check_done, jobs_per_second
from orderflow.bull.queues import open_queues

_QUEUE = "payment-processing"
_PRIORITIES = (1, 10, 20)

#: Jobs of a run, of which the first tenth warms up.
_JOBS = 60_000
_STOCK_JOBS = 8_000

_NODE_DRAIN = partial(node, "drain.mjs", _QUEUE)
_STOCK_DRAIN = partial(python, "bench.peers.stock_drain", "client", _QUEUE)
_STOCK_ADDRESS_DRAIN = partial(python, "bench.peers.stock_drain", "address", _QUEUE)
_OUR_DRAIN = partial(python, "bench.ours.drain", _QUEUE)


def _add_small_jobs(place: Place, count: int) -> None:
    """Add payment jobs of all three priorities, mixed."""
    add_jobs(
        place,
        _QUEUE,
        [
            {
                "name": "process-payment",
                "data": {
                    "paymentId": f"p-{n}",
                    "orderId": f"o-{n}",
                    "paymentData": {"method": "card", "amount": "19.99"},
                },
                "opts": {"jobId": f"payment-{n}", "priority": _PRIORITIES[n % 3]},
            }
            for n in range(count)
        ],
    )


def _drain(lab: Lab, commands: Sequence[Sequence[str]], jobs: int) -> float:
    """Return the jobs per second that these processes take together."""
    with lab.place() as place, ExitStack() as stack:
        _add_small_jobs(place, jobs)
        programs = [
            stack.enter_context(lab.running(f"drain-{n}", command, place.environment()))
            for n, command in enumerate(commands)
        ]
        watch = QueueWatch(lab.redis, place.prefix, _QUEUE)
        found = jobs_per_second(watch, jobs, programs)
        check_done(watch, jobs, programs)
        return found


@contextmanager
def _open_drain(
    options: Options,
    *,
    concurrency: int,
    jobs: int,
    peer: partial[list[str]],
    always: bool = False,
) -> Iterator[MeasureSide]:
    with open_lab(options.log_level, postgres=False) as lab:
        if always:
            lab.redis.config_set("appendfsync", "always")

        def measure(side: Side) -> Values:
            command = (peer if side is Side.PEER else _OUR_DRAIN)(str(concurrency))
            return {"": _drain(lab, [command], options.count(jobs))}

        yield measure


#: What a job of the row `scaling` computes, and how many there are.
_WORK_S = 0.000_2
_WORK_JOBS = 15_000


@contextmanager
def _open_scaling(options: Options) -> Iterator[MeasureSide]:
    turns = str(_turns_in(_WORK_S))
    with open_lab(options.log_level, postgres=False) as lab:

        def measure(side: Side) -> Values:
            processes = 1 if side is Side.PEER else 2
            commands = [_OUR_DRAIN("50", turns)] * processes
            return {"": _drain(lab, commands, options.count(_WORK_JOBS))}

        yield measure


def _turns_in(seconds: float) -> int:
    """Return how many turns of the loop take so long on a core of this machine that is free."""
    sample = 100_000

    def time_sample() -> float:
        start = now_s()
        count_turns(sample)
        return now_s() - start

    return round(seconds / min(time_sample() for _ in range(20)) * sample)


_ADDS = 60_000
_IN_FLIGHT = 1_000
_WARM_UP_ADDS = 10_000


@contextmanager
def _open_add(options: Options) -> Iterator[MeasureSide]:
    jobs = options.count(_ADDS)
    args = [_QUEUE, *map(str, (jobs, _IN_FLIGHT, options.count(_WARM_UP_ADDS)))]
    with open_lab(options.log_level, postgres=False) as lab:

        def measure(side: Side) -> Values:
            peer = side is Side.PEER
            command = node("add.mjs", *args) if peer else python("bench.ours.add", *args)
            with lab.place() as place, lab.running("add", command, place.environment()) as program:
                program.expect("ready")
                start = now_s()
                program.say("go")
                program.expect("done", patience_s=300)
                taken_s = now_s() - start
                watch = QueueWatch(lab.redis, place.prefix, _QUEUE)
                wait_until(lambda: watch.waiting() == jobs, f"{jobs} jobs that wait", [program], 1)
                return {"": jobs / taken_s}

        yield measure


#: Seconds of rest, and how many jobs each queue gets after such a rest in one run.
_RESTS = {1: 10, 6: 3, 13: 2}
_IDLE_QUEUES = 20
_WARM_UPS = 3


class _Idle:
    """Both sides at once, each on queues of its own, so that they meet the same machine."""

    def __init__(self, options: Options, place: Place, programs: Mapping[Side, Program]) -> None:
        self._rests = {1: 3} if options.quick else _RESTS
        self._place = place
        self._programs = programs
        self._ours: Values = {}

    def __call__(self, side: Side) -> Values:
        """Measure both sides when the peer's turn comes, and give ours when that comes."""
        if side is Side.OURS:
            return self._ours
        found = asyncio.run(self._measure())
        self._ours = found[Side.OURS]
        return found[Side.PEER]

    async def _measure(self) -> dict[Side, Values]:
        values: dict[Side, dict[str, float]] = {side: {} for side in Side}
        for rest_s, rounds in self._rests.items():
            await self._add(0.3, _WARM_UPS)
            self._started_us(_WARM_UPS)
            await self._add(rest_s, rounds)
            for side, samples in self._started_us(rounds).items():
                values[side][f"-{rest_s}s-p50"] = statistics.median(samples) / 1000
                values[side][f"-{rest_s}s-p99"] = percentile(samples, 99) / 1000
        return {side: values[side] for side in Side}

    async def _add(self, rest_s: float, rounds: int) -> None:
        """Add a job to each queue every `rest_s`, one after the other over all that time."""
        step_s = rest_s / (_IDLE_QUEUES * len(Side))
        async with open_queues(self._place.settings()) as queues:
            for side in Side:
                await queues.queue(_idle_queue(side)).add("warm-up", {"addedUs": 0})
            begin = asyncio.get_running_loop().time() + rest_s
            turn = 0
            for _ in range(rounds):
                for n in range(_IDLE_QUEUES):
                    for side in Side:
                        await _sleep_until(begin + turn * step_s)
                        turn += 1
                        added_us = time.monotonic_ns() // 1000
                        await queues.queue(f"{_idle_queue(side)}-{n}").add(
                            "process-payment", {"addedUs": added_us}, {"priority": 1}
                        )

    def _started_us(self, rounds: int) -> dict[Side, list[int]]:
        """Return after how many microseconds each job was started."""
        return {
            side: [int(program.hear(30)) for _ in range(_IDLE_QUEUES * rounds)]
            for side, program in self._programs.items()
        }


def _idle_queue(side: Side) -> str:
    return f"rests-{side.value}"


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))


@contextmanager
def _open_idle(options: Options) -> Iterator[MeasureSide]:
    commands = {
        Side.PEER: node("idle.mjs", _idle_queue(Side.PEER), str(_IDLE_QUEUES)),
        Side.OURS: python("bench.ours.idle", _idle_queue(Side.OURS), str(_IDLE_QUEUES)),
    }
    with ExitStack() as stack:
        lab = stack.enter_context(open_lab(options.log_level, postgres=False))
        place = stack.enter_context(lab.place())
        programs = {
            side: stack.enter_context(lab.running(f"idle-{side}", command, place.environment()))
            for side, command in commands.items()
        }
        for program in programs.values():
            program.expect("ready")
        yield _Idle(options, place, programs)


_NODE = "Node bullmq 6.7 Worker"
_STOCK = "stock Python bullmq Worker, given a client"
_STOCK_ADDRESS = "stock Python bullmq Worker, given an address"
_OURS = "orderflow SlotWorker"


def _drain_row(name: str, must: float, aim: float, *, peer: str = _NODE, **how: Any) -> Row:
    commands = {_NODE: _NODE_DRAIN, _STOCK: _STOCK_DRAIN, _STOCK_ADDRESS: _STOCK_ADDRESS_DRAIN}
    jobs = _JOBS if peer == _NODE else _STOCK_JOBS
    open_row = partial(_open_drain, peer=commands[peer], jobs=jobs, **how)
    return Row(name, peer, _OURS, [rate(name, "jobs/s", must, aim)], open_row)


QUEUE_ROWS = [
    _drain_row("drain-50", 0.9, 1.0, concurrency=50),
    _drain_row("drain-10", 0.7, 1.0, concurrency=10),
    _drain_row("drain-50-stock", 5, 8, concurrency=50, peer=_STOCK),
    _drain_row("drain-10-stock", 5, 8, concurrency=10, peer=_STOCK),
    _drain_row("drain-50-address", 5, 8, concurrency=50, peer=_STOCK_ADDRESS),
    _drain_row("drain-10-address", 5, 8, concurrency=10, peer=_STOCK_ADDRESS),
    Row(
        "add",
        "Node bullmq 6.7 Queue.add",
        "orderflow NodeQueue.add",
        [rate("add", "jobs/s", 0.7, 1.0)],
        _open_add,
    ),
    Row(
        "idle",
        _NODE,
        _OURS,
        [
            cost(f"idle-{rest_s}s-{point}", "ms", 1.2, 1.0)
            for rest_s in _RESTS
            for point in ("p50", "p99")
        ],
        _open_idle,
    ),
    _drain_row("always", 8, 12, concurrency=50, peer=_STOCK, always=True),
    _drain_row("always-address", 8, 12, concurrency=50, peer=_STOCK_ADDRESS, always=True),
    Row(
        "scaling",
        "1 orderflow process",
        "2 orderflow processes",
        [rate("scaling", "jobs/s", 1.5, 1.8)],
        _open_scaling,
    ),
]
