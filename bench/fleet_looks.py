"""What a fleet of workers holds, costs and takes: read from outside, of the system and servers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from bench.servers import Lab, Place, fetch

#: The states of a job that are lists in Redis; the others are sorted sets.
_LISTS = ("wait", "active")
_CHUNK = 500


@dataclass(frozen=True)
class Memory:
    """What processes hold, in MB: of each at the least, in the middle and at the most, and of all.

    `pss` divides what several share among them, so that it adds up; `uss` is what would be free
    again if one ended.
    """

    rss: float
    pss: float
    uss: float
    uss_most: float
    pss_all: float


def memory(pids: Sequence[int]) -> Memory:
    """Look at every process; the figures of one are those of the middle one."""
    looks = [psutil.Process(pid).memory_full_info() for pid in pids]

    def middle(values: Sequence[float]) -> float:
        return sorted(values)[len(values) // 2] / 1e6

    uss = [look.uss for look in looks]
    return Memory(
        rss=middle([look.rss for look in looks]),
        pss=middle([look.pss for look in looks]),
        uss=middle(uss),
        uss_most=max(uss) / 1e6,
        pss_all=sum(look.pss for look in looks) / 1e6,
    )


@dataclass(frozen=True)
class Cost:
    """What some seconds took: in percent of one core, and commands a second."""

    redis_percent: float
    workers_percent: float
    commands: dict[str, float]


def cost(lab: Lab, pids: Sequence[int], during: Callable[[], None]) -> Cost:
    """Return what Redis and the processes computed while `during` ran."""
    before = lab.redis_cpu_s(), _cpu_s(pids), _calls(lab), time.monotonic()
    during()
    took_s = time.monotonic() - before[3]
    calls = _calls(lab)
    return Cost(
        redis_percent=100 * (lab.redis_cpu_s() - before[0]) / took_s,
        workers_percent=100 * (_cpu_s(pids) - before[1]) / took_s,
        commands={
            name: (count - before[2].get(name, 0)) / took_s
            for name, count in sorted(calls.items(), key=lambda call: -call[1])
            # Those that only we send.
            if name not in ("info", "client|list") and count > before[2].get(name, 0)
        },
    )


def _calls(lab: Lab) -> dict[str, int]:
    stats = lab.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


def _cpu_s(pids: Sequence[int]) -> float:
    used = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            used += times.user + times.system
    return used


@dataclass(frozen=True)
class Connections:
    """How many connections the servers have from the workers."""

    redis: int
    postgres: int


def connections(lab: Lab, place: Place) -> Connections:
    """Count them, without our own."""
    [[postgres]] = fetch(
        place.database_url,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orderflow'",
    )
    return Connections(int(lab.redis.info("clients")["connected_clients"]) - 1, int(postgres))


class Jobs:
    """The jobs of one queue, which keeps them when they are done."""

    def __init__(self, lab: Lab, key: str, ids: Sequence[str]) -> None:
        self._redis = lab.redis
        self._key = key
        self._ids = ids

    def count(self, state: str) -> int:
        """Return how many are in a state."""
        key = f"{self._key}:{state}"
        return int(self._redis.llen(key) if state in _LISTS else self._redis.zcard(key))

    def waiting(self) -> int:
        """Return how many wait for a worker."""
        return self.count("wait") + self.count("prioritized")

    def shares(self) -> Counter[str]:
        """Return how many jobs each worker has taken, by its name."""
        return Counter(str(worker) for worker in self._field("pb") if worker)

    def waits_ms(self, ids: Sequence[str]) -> list[int]:
        """Return how long these jobs waited for a worker."""
        added, started = self._field("timestamp", ids), self._field("processedOn", ids)
        return [int(s or 0) - int(a or 0) for a, s in zip(added, started, strict=True)]

    def begun_again(self) -> int:
        """Return how many jobs were begun more than once."""
        return sum(int(started or 0) > 1 for started in self._field("ats"))

    def _field(self, name: str, ids: Sequence[str] | None = None) -> list[str | None]:
        asked = self._ids if ids is None else ids
        found: list[str | None] = []
        for start in range(0, len(asked), _CHUNK):
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in asked[start : start + _CHUNK]:
                pipeline.hget(f"{self._key}:{job_id}", name)
            found += pipeline.execute()
        return found
