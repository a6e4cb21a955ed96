"""What is measured each second: counts, queues, memory and latency, without asking the database.

Counts come from the sizes of the recorded files and from the producer's mark, so that looking
costs the same at the first order and at the last.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import psutil
from redis import Redis

from orderflow.contract import QueueName
from orderflow.queue_names import QueueNames
from orderflow.sandbox.recording import (
    CHARGE_FILES,
    CHARGE_LINE_BYTES,
    SENT_FILES,
    SENT_LINE_BYTES,
)
from orderflow.sandbox.rehearsal.cast import POSTGRES, REDIS
from orderflow.sandbox.rehearsal.producer import read_count

QUEUE_PREFIX = "bull"
#: Mails whose latency is read in one second; a thousand tell a 99th percentile well enough.
_LATENCIES = 1_000
_REDIS_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Depth:
    """The jobs of one queue that have not completed."""

    waiting: int
    active: int
    delayed: int
    failed: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.active + self.delayed + self.failed


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    `elapsed_s` counts the time that orders were carried, over all sittings of a rehearsal, where
    every start or resume is a sitting. Latencies are those of mails since the sample before, from
    the checkout to the mail; None if there was none. Memory is in bytes.
    """

    sitting: int
    elapsed_s: float
    placed: int
    paid: int
    notified: int
    queues: dict[str, Depth]
    redis_bytes: int
    redis_peak_bytes: int
    rss_bytes: dict[str, int]
    latency_p50_ms: int | None
    latency_p99_ms: int | None

    @property
    def moved(self) -> tuple[int, int, int]:
        """What changes as long as any order moves."""
        return self.placed, self.paid, self.notified

    @property
    def queued(self) -> int:
        """The jobs of all queues that have not completed."""
        return sum(depth.total for depth in self.queues.values())

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read a line of the file of samples."""
        fields = json.loads(line)
        queues = {name: Depth(**depth) for name, depth in fields.pop("queues").items()}
        return cls(queues=queues, **fields)


class Samples:
    """All samples of a rehearsal, in memory and as lines of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.all = list(_read(path))

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self.all.append(sample)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(sample)) + "\n")

    @property
    def last(self) -> Sample | None:
        """The sample before, of this sitting or an earlier one."""
        return self.all[-1] if self.all else None


def _read(path: Path) -> Iterator[Sample]:
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            yield Sample.from_json(line)
        except ValueError:
            continue  # a power cut left half a line


class Sampler:
    """Takes the samples of one sitting."""

    def __init__(self, folder: Path, redis_url: str, pids: Mapping[str, int], before: Samples):
        self._records = folder / "records"
        self._mark = mark_of(folder)
        self._redis = Redis.from_url(redis_url, socket_timeout=_REDIS_TIMEOUT_S)
        self._pids = pids
        self._mails = _NewMails(self._records)
        last = before.last
        self._sitting = last.sitting + 1 if last else 1
        self._begun_at = time.monotonic() - (last.elapsed_s if last else 0.0)

    def take(self) -> Sample:
        """Look. Raises redis.RedisError if Redis does not answer."""
        queues, redis_bytes, redis_peak_bytes = self._look_at_redis()
        latencies_ms = sorted(self._mails.latencies_ms())
        return Sample(
            sitting=self._sitting,
            elapsed_s=round(time.monotonic() - self._begun_at, 3),
            placed=read_count(self._mark),
            paid=count_lines(self._records, CHARGE_FILES, CHARGE_LINE_BYTES),
            notified=count_lines(self._records, SENT_FILES, SENT_LINE_BYTES),
            queues=queues,
            redis_bytes=redis_bytes,
            redis_peak_bytes=redis_peak_bytes,
            rss_bytes=_memory(self._pids),
            latency_p50_ms=percentile(latencies_ms, 50),
            latency_p99_ms=percentile(latencies_ms, 99),
        )

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _look_at_redis(self) -> tuple[dict[str, Depth], int, int]:
        queues = read_depths(self._redis)
        memory = self._redis.info("memory")
        return queues, memory["used_memory"], memory["used_memory_peak"]


def mark_of(folder: Path) -> Path:
    """Return the file of the producer's mark."""
    return folder / "placed"


def read_depths(redis: Redis) -> dict[str, Depth]:
    """Return the depth of the queues that orders go through, in one round trip."""
    names, key = (QueueName.PAYMENTS, QueueName.NOTIFICATIONS), QueueNames(QUEUE_PREFIX).key
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            for kind in ("wait", "paused", "active"):
                pipeline.llen(key(name, kind))
            for kind in ("prioritized", "delayed", "failed"):
                pipeline.zcard(key(name, kind))
        replies = pipeline.execute()
    depths = {}
    for name, at in zip(names, range(0, len(replies), 6), strict=True):
        wait, paused, active, prioritized, delayed, failed = replies[at : at + 6]
        depths[name.value] = Depth(wait + paused + prioritized, active, delayed, failed)
    return depths


def count_lines(records: Path, pattern: str, line_bytes: int) -> int:
    """Return how many lines of one length the files of that pattern have."""
    return sum(file.stat().st_size // line_bytes for file in records.glob(pattern))


def percentile(ordered: Sequence[int], percent: int) -> int | None:
    """Return the smallest of the sorted values that `percent` of them do not exceed."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


class _NewMails:
    """Reads what was added to the records of mails since the last look."""

    def __init__(self, records: Path) -> None:
        self._records = records
        self._read = {file: file.stat().st_size for file in records.glob(SENT_FILES)}

    def latencies_ms(self) -> Iterable[int]:
        """Return the latencies of the new mails, or of a thousand or so of them."""
        lines = [line for file in self._records.glob(SENT_FILES) for line in self._new(file)]
        return [_latency_ms(line) for line in lines[:: len(lines) // _LATENCIES + 1]]

    def _new(self, file: Path) -> Sequence[bytes]:
        begin = self._read.get(file, 0)
        end = file.stat().st_size // SENT_LINE_BYTES * SENT_LINE_BYTES
        self._read[file] = end
        with file.open("rb") as sent:
            sent.seek(begin)
            text = sent.read(end - begin)
        return [text[at : at + SENT_LINE_BYTES] for at in range(0, len(text), SENT_LINE_BYTES)]


def _latency_ms(line: bytes) -> int:
    """Return the time from a checkout to its mail: an order's UUIDv7 begins with its time."""
    order_id, sent_ms, _ = line.decode().split("\t")
    return int(sent_ms) - (UUID(order_id).int >> 80)


def _memory(pids: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of each process, and of those that it started, by name."""
    found: dict[str, int] = {}
    for name, pid in pids.items():
        # What Redis starts is a fork that writes its log anew, and shares nearly all its pages.
        family = _family(pid)[: 1 if name == REDIS else None]
        if name == POSTGRES:
            # Its processes share their buffers: those count once.
            shared = max((memory.shared for memory in family), default=0)
            found[name] = sum(memory.rss - memory.shared for memory in family) + shared
            continue
        names = [name, *(f"{name}.{number}" for number in range(1, len(family)))]
        found |= {each: memory.rss for each, memory in zip(names, family, strict=False)}
    return found


@dataclass(frozen=True, slots=True)
class _Memory:
    rss: int
    shared: int


def _family(pid: int) -> list[_Memory]:
    """Return the memory of a process, then of its children in the order they were started."""
    try:
        process = psutil.Process(pid)
        children = sorted(process.children(recursive=True), key=lambda child: child.pid)
    except psutil.NoSuchProcess:
        return []
    return [memory for each in (process, *children) if (memory := _memory_of(each))]


def _memory_of(process: psutil.Process) -> _Memory | None:
    try:
        info = process.memory_info()
    except psutil.NoSuchProcess:
        return None
    # A process that ended and is not waited for yet has none.
    return _Memory(info.rss, info.shared) if info.rss else None
