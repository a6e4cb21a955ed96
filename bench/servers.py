"""Redis and PostgreSQL for one row: started for it, emptied between its runs, and ended with it."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil
from redis import Redis

from bench.processes import Program, wait_until
from bench.shop import open_shop
from orderflow.bull.queues import JobQueues, open_queues
from orderflow.db.migrate import migrate
from orderflow.sandbox.servers import Server, free_port, own_redis, start_postgres, start_redis
from orderflow.settings import Settings, load_settings

T = TypeVar("T")

SECRET = "a secret for benchmarks that is long enough"

#: As durable as they come; the sizes are those of a small server, so that checkpoints are few.
POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
}

#: Where each run's database is copied from: a shop that was open for a while.
SHOP = "shop"
SHOP_ORDERS = 50_000
#: What the servers that were started say of themselves.
SERVER_VERSIONS: dict[str, str] = {}

_ADD_CHUNK = 1_000


@dataclass(frozen=True)
class Place:
    """Where one run takes place: keys and a database that nothing else uses."""

    redis_url: str
    prefix: str
    database_url: str
    log_level: str

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the programs of this run, the same for both sides."""
        return {
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "DATABASE_POOL_SIZE": "20",
            "QUEUE_PREFIX": self.prefix,
            "JWT_SECRET": SECRET,
            "LOG_LEVEL": self.log_level,
            "NODE_ENV": "production",
            **more,
        }

    def settings(self) -> Settings:
        """Return the settings for what we do ourselves in this place."""
        return load_settings(
            redis_url=self.redis_url,
            database_url=self.database_url or None,
            queue_prefix=self.prefix,
            redis_timeout_ms=60_000,
        )


class Lab:
    """The servers of one row, and the programs that a run starts."""

    def __init__(
        self, folder: Path, redis: Server, postgres: Server | None, log_level: str
    ) -> None:
        self.folder = folder
        self._redis_url = redis.url
        self._postgres = postgres
        self._log_level = log_level
        self._numbers = itertools.count(1)
        self._programs = itertools.count(1)
        self.redis = Redis.from_url(redis.url, decode_responses=True)

    @contextmanager
    def place(self, template: str = SHOP) -> Iterator[Place]:
        """Give an empty Redis and a copy of a database, both with nothing left to write down."""
        number = next(self._numbers)
        self._empty_redis()
        if self._postgres is None:
            yield Place(self._redis_url, f"bench-{number}", "", self._log_level)
            return
        name = f"run_{number}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self.sql("CHECKPOINT")
        yield self.place_at(name)
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def place_on(self, database: str) -> Iterator[Place]:
        """Give an empty Redis and a database as it is, which is not dropped."""
        self._empty_redis()
        self.sql("CHECKPOINT")
        yield self.place_at(database)

    def place_at(self, database: str) -> Place:
        """Return the place of a database of this lab."""
        prefix = f"bench-{next(self._numbers)}"
        return Place(self._redis_url, prefix, self.url_of(database), self._log_level)

    def url_of(self, database: str) -> str:
        """Return the address of a database of this lab."""
        assert self._postgres is not None, "this row did not ask for PostgreSQL"
        return f"{self._postgres.url.removesuffix('/postgres')}/{database}"

    def sql(self, statement: str, *args: Any, database: str = "template1") -> list[Any]:
        """Run one statement and return its rows."""
        return fetch(self.url_of(database), statement, *args)

    def redis_cpu_s(self) -> float:
        """Return how long Redis has computed since its start."""
        used = self.redis.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    def postgres_cpu_s(self) -> float:
        """Return how long all processes of PostgreSQL have computed since its start."""
        assert self._postgres is not None, "this row did not ask for PostgreSQL"
        postmaster = psutil.Process(self._postgres.process.pid)
        ended = postmaster.cpu_times()
        used = ended.user + ended.system + ended.children_user + ended.children_system
        for process in postmaster.children():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return float(used)

    @contextmanager
    def running(
        self, name: str, command: Sequence[str], environment: dict[str, str]
    ) -> Iterator[Program]:
        """Run a program; it is stopped on leaving."""
        log = self.folder / f"{next(self._programs):03}-{name}.log"
        program = Program(name, command, environment, log)
        try:
            yield program
        finally:
            program.stop()

    def _empty_redis(self) -> None:
        """Leave Redis as it starts: no keys, and a log that does not hold earlier runs."""
        self.redis.flushall()
        # A rewrite in the middle of a run would cost whichever side it meets.
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.redis.bgrewriteaof()
        wait_until(self._aof_is_written, "Redis rewriting its log")

    def _aof_is_written(self) -> bool:
        state = self.redis.info("persistence")
        return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder for what servers keep; it is removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="orderflow-bench-") as name:
        # Not closed to other users: as root, PostgreSQL runs as one of its own.
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def open_postgres(
    folder: Path, settings: Mapping[str, str] = POSTGRES_SETTINGS
) -> Iterator[Server]:
    """Give a PostgreSQL that keeps its data in a folder; it is stopped on leaving."""
    server = start_postgres(folder, free_port(), dict(settings))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def open_lab(
    log_level: str, *, postgres: bool, settings: Mapping[str, str] = POSTGRES_SETTINGS
) -> Iterator[Lab]:
    """Give the servers of a row. With PostgreSQL the database `shop` is migrated and filled."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        redis = start_redis(folder / "redis", free_port(), executable=own_redis())
        stack.callback(redis.stop)
        server = None
        if postgres:
            server = stack.enter_context(open_postgres(folder / "postgres", settings))
        lab = Lab(folder, redis, server, log_level)
        stack.callback(lab.redis.close)
        SERVER_VERSIONS["redis"] = str(lab.redis.info("server")["redis_version"])
        if postgres:
            lab.sql(f"CREATE DATABASE {SHOP}")
            SERVER_VERSIONS["postgres"] = str(lab.sql("SHOW server_version")[0][0])
            asyncio.run(migrate(lab.url_of(SHOP)))
            open_shop(lab.url_of(SHOP), SHOP_ORDERS)
        yield lab


def fetch(url: str, statement: str, *args: Any) -> list[Any]:
    """Run one statement on a connection of its own and return its rows."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(statement, *args))
        finally:
            await connection.close()

    return asyncio.run(run())


def with_queues(place: Place, work: Callable[[JobQueues], Awaitable[T]]) -> T:
    """Run `work` with the queues of a place."""

    async def run() -> T:
        async with open_queues(place.settings()) as queues:
            return await work(queues)

    return asyncio.run(run())


def add_jobs(place: Place, queue: str, jobs: Sequence[dict[str, Any]]) -> None:
    """Add jobs, each `{name, data, opts}`, with the options that every job has."""

    async def add(queues: JobQueues) -> None:
        for start in range(0, len(jobs), _ADD_CHUNK):
            await queues.queue(queue).addBulk(list(jobs[start : start + _ADD_CHUNK]))

    with_queues(place, add)


class QueueWatch:
    """How far a queue is, read from outside: the same for every worker, whoever wrote it."""

    def __init__(self, redis: Redis, prefix: str, queue: str) -> None:
        self._redis = redis
        self._key = f"{prefix}:{queue}"

    def completed(self) -> int:
        """Return how many jobs were completed, by BullMQ's own counter of its metrics."""
        return int(self._redis.hget(f"{self._key}:metrics:completed", "count") or 0)

    def waiting(self) -> int:
        """Return how many jobs wait for a worker."""
        return int(self._redis.zcard(f"{self._key}:prioritized")) + int(
            self._redis.llen(f"{self._key}:wait")
        )

    def left(self) -> dict[str, int]:
        """Return the states that are not empty, without those that are completed."""
        lists = {name: int(self._redis.llen(f"{self._key}:{name}")) for name in ("wait", "active")}
        sets = {
            name: int(self._redis.zcard(f"{self._key}:{name}"))
            for name in ("prioritized", "delayed", "failed")
        }
        return {name: count for name, count in (lists | sets).items() if count}

    def first_failure(self) -> str:
        """Return why a failed job failed."""
        for job_id in map(str, self._redis.zrange(f"{self._key}:failed", 0, 0)):
            return str(self._redis.hget(f"{self._key}:{job_id}", "failedReason"))
        return ""


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return what so many percent of the samples do not exceed."""
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def to_json(data: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(data, separators=(",", ":"))


def now_s() -> float:
    """Return the time that all runs are measured by."""
    return time.perf_counter()
