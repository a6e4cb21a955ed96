"""The doctor: says what is wrong or risky about Redis, PostgreSQL and the queues on them.

Every check is a function that returns findings; the two lists at the end say which run, and in
what order. A server that is away is a finding of its own, and the other server is looked at all
the same. Nothing is written anywhere, and no finding holds a password.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic.script import ScriptDirectory
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.bull.connection import connect_producer
from orderflow.bull.producer import node_client_name
from orderflow.bull.queues import JobQueues
from orderflow.contract import QueueName
from orderflow.settings import Settings

#: The longest wait for one answer: more than a server that is well needs.
_PATIENCE_MS = 3_000
#: What BullMQ itself recommends at least.
_OLDEST_REDIS = (6, 2)
_OLDEST_POSTGRES = 14
_FULL = 0.8
_CLOCK_WARNING_S, _CLOCK_ERROR_S = 1.0, 5.0
#: Keys are looked through in steps, so that Redis answers others in between, and not for ever.
_SCAN_STEP, _SCAN_STEPS = 1_000, 500
_UNSETTLED_AFTER_S, _UNSETTLED_COUNTED = 600, 1_000
_NAMED_AT_MOST = 10
_MIGRATIONS = Path(__file__).parent / "db" / "migrations"


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


#: What `orderflow doctor` exits with, by its worst finding.
EXIT_STATUS = {Severity.OK: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it; `fix` is empty where nothing is to be done."""

    check: str
    severity: Severity
    message: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding by its fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RedisSite:
    """What the checks of Redis look at; `info` is the server's own INFO."""

    settings: Settings
    client: Redis
    queues: JobQueues
    info: Mapping[str, Any]

    def key(self, queue: str, part: str) -> str:
        """Return the name of one of a queue's keys."""
        return f"{self.settings.queue_prefix}:{queue}:{part}"


@dataclass(frozen=True, slots=True)
class PostgresSite:
    """What the checks of PostgreSQL look at; `facts` are settings of the server by name."""

    connection: asyncpg.Connection[asyncpg.Record]
    facts: Mapping[str, str]


Findings = list[Finding]
Site = TypeVar("Site")


async def examine(settings: Settings) -> Findings:
    """Run every check and return what each found, in order."""
    return [*await _examine_redis(settings), *await _examine_postgres(settings)]


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the worst severity among the findings."""
    return max((f.severity for f in findings), key=list(Severity).index, default=Severity.OK)


# --- Redis ----------------------------------------------------------------------------------------


async def redis_version(site: RedisSite) -> Findings:
    """Say whether BullMQ's scripts run on this version."""
    version = str(site.info["redis_version"])
    if _numbers(version) < _OLDEST_REDIS:
        return [
            _error(
                "redis-version",
                f"Redis {version} is older than 6.2, which BullMQ asks for at least",
                "Upgrade Redis to 6.2 or newer",
            )
        ]
    return [_ok("redis-version", f"Redis {version} answers")]


async def redis_role(site: RedisSite) -> Findings:
    """Say whether jobs can be added here at all."""
    if site.info.get("role") == "slave":
        return [
            _error(
                "redis-role",
                "This Redis is a replica: no job can be added to it",
                "Point REDIS_URL or REDIS_HOST at the primary",
            )
        ]
    return []


async def redis_eviction(site: RedisSite) -> Findings:
    """Say whether Redis may throw jobs away when it is full."""
    policy = site.info["maxmemory_policy"]
    if policy != "noeviction":
        return [
            _error(
                "redis-eviction",
                f"maxmemory-policy is {policy}: when memory is short, Redis deletes jobs",
                "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
            )
        ]
    return [_ok("redis-eviction", "maxmemory-policy is noeviction")]


async def redis_memory(site: RedisSite) -> Findings:
    """Say whether Redis is about to refuse jobs for want of memory."""
    limit, used = int(site.info["maxmemory"]), int(site.info["used_memory"])
    if not limit:
        return [_ok("redis-memory", f"{_mebibytes(used)} used, and maxmemory sets no limit")]
    said = f"{used / limit:.0%} of maxmemory is used: {_mebibytes(used)} of {_mebibytes(limit)}"
    if used > limit * _FULL:
        return [
            _warning(
                "redis-memory",
                f"{said}; at 100% no job can be added",
                "Raise maxmemory, or look for a queue that grows because nobody works on it",
            )
        ]
    return [_ok("redis-memory", said)]


async def redis_persistence(site: RedisSite) -> Findings:
    """Say whether jobs outlive a restart of Redis."""
    name, info = "redis-persistence", site.info
    if info["aof_enabled"]:
        status = info["aof_last_write_status"]
        if status != "ok":
            return [
                _error(
                    name,
                    f"The last write to the append only file ended with {status}",
                    "Look at the log of Redis, and whether its disk is full",
                )
            ]
        return [_ok(name, "The append only file is on")]
    if not (await site.client.config_get("save"))["save"]:
        return [
            _warning(
                name,
                "Neither the append only file nor snapshots are on: a restart loses all jobs. "
                "The reconciler puts back those of known orders, but not those of others",
                "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
            )
        ]
    status = info["rdb_last_bgsave_status"]
    if status != "ok":
        return [
            _error(
                name,
                f"The last snapshot ended with {status}; Redis may refuse to write until one works",
                "Look at the log of Redis, and whether its disk is full",
            )
        ]
    return [_ok(name, "Snapshots are on; a crash loses what came after the last one")]


async def redis_clock(site: RedisSite) -> Findings:
    """Compare the clock of Redis with that of this machine."""

    async def ask() -> float:
        seconds, microseconds = await site.client.time()
        return float(seconds) + float(microseconds) / 1e6

    return await _compare_clocks("redis-clock", "Redis", ask)


async def prefix(site: RedisSite) -> Findings:
    """Say what other queues are under the prefix, and whether ours are under another one."""
    ours = site.settings.queue_prefix
    by_prefix, complete = await _find_queues(site.client)
    found = by_prefix.get(ours, set())
    contract = {queue.value for queue in QueueName}
    findings = await _judge_foreign(site, sorted(found - contract))
    elsewhere = sorted(p for p, names in by_prefix.items() if p != ours and names & contract)
    if elsewhere and not found & contract:
        findings.append(
            _warning(
                "prefix",
                f"QUEUE_PREFIX is '{ours}', where none of the queues is; they are under: "
                f"{_listed(elsewhere)}",
                "Set QUEUE_PREFIX to the `prefix` that the Node services give to BullMQ",
            )
        )
    if not complete:
        findings.append(
            _ok("prefix", f"Only the first {_SCAN_STEP * _SCAN_STEPS:,} keys were looked through")
        )
    return findings or [_ok("prefix", f"Under '{ours}' are no queues but those of the contract")]


async def priorities(site: RedisSite) -> Findings:
    """Say whether jobs wait under numbers that the settings lack."""
    numbers = site.settings.priorities
    findings = []
    for queue in QueueName:
        unknown = numbers.unknown(await site.queues.priorities_in_use(queue))
        if unknown:
            findings.append(
                _warning(
                    "priorities",
                    f"{queue}: jobs wait with the priority {_listed(unknown)}, which is none of "
                    f"{numbers.high}, {numbers.medium}, {numbers.low}",
                    "Set PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW to the numbers of the "
                    "other producers, and the same ones on all sides",
                )
            )
    return findings or [
        _ok("priorities", f"HIGH {numbers.high}, MEDIUM {numbers.medium}, LOW {numbers.low}")
    ]


async def paused(site: RedisSite) -> Findings:
    """Say which queues are paused, and where a 5.x client left jobs aside."""
    findings = []
    resume = "Resume it in Bull Board, or by `await queue.resume()` in Node"
    for queue in QueueName:
        if await site.client.hexists(site.key(queue, "meta"), "paused"):
            findings.append(
                _warning("paused", f"{queue} is paused: its jobs wait and none is started", resume)
            )
        aside = await site.client.llen(site.key(queue, "paused"))
        if aside:
            findings.append(
                _warning(
                    "paused",
                    f"{queue}: {aside} jobs lie in the list `paused`, where only a 5.x client "
                    "puts them; no worker takes a job from it, and a second pause by 5.x loses it",
                    f"{resume}, again until this is gone: one call moves 7,000 jobs at most",
                )
            )
    return findings or [_ok("paused", "No queue is paused")]


async def workers(site: RedisSite) -> Findings:
    """Say who works on each queue, and in which language."""
    clients = await site.client.client_list()
    findings = []
    for queue, name in zip(QueueName, ("payment", "notification", "order"), strict=True):
        seen = [_worker(client, site.settings.queue_prefix, queue) for client in clients]
        told = Counter(worker for worker in seen if worker)
        if told:
            who = ", ".join(f"{count} {worker}" for worker, count in sorted(told.items()))
            findings.append(_ok("workers", f"{queue}: {who}"))
        else:
            findings.append(
                _warning(
                    "workers",
                    f"{queue}: no worker is connected, so its jobs wait",
                    f"python -m orderflow.worker {name}",
                )
            )
    return findings


# --- PostgreSQL -----------------------------------------------------------------------------------


async def postgres_version(site: PostgresSite) -> Findings:
    """Say whether this version is one that orderflow is meant for."""
    version = site.facts["server_version"]
    if _numbers(version) < (_OLDEST_POSTGRES,):
        return [
            _warning(
                "postgres-version",
                f"PostgreSQL {version} is older than {_OLDEST_POSTGRES}",
                f"Upgrade PostgreSQL to {_OLDEST_POSTGRES} or newer",
            )
        ]
    return [_ok("postgres-version", f"PostgreSQL {version} answers")]


async def migrations(site: PostgresSite) -> Findings:
    """Compare the schema with the one that this version needs."""
    name = "migrations"
    current, head = await revisions(site.connection)
    if current == head:
        return [_ok(name, f"The schema is up to date: {head}")]
    if current is None:
        return [_error(name, "The database has no schema of orderflow yet", "orderflow migrate")]
    known = {script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}
    if current not in known:
        return [
            _error(
                name,
                f"The schema is at {current}, which this version does not know: it is a newer one",
                "Install the version of orderflow that migrated the database",
            )
        ]
    return [
        _error(name, f"The schema is at {current} and has to be at {head}", "orderflow migrate")
    ]


async def revisions(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str | None, str]:
    """Return the revision of the schema, None where there is none, and that of this version."""
    head = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    if head is None:
        raise RuntimeError("the package has no migrations")
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None, head
    return await connection.fetchval("SELECT version_num FROM alembic_version"), head


async def postgres_durability(site: PostgresSite) -> Findings:
    """Say whether a commit, and so an answer to a checkout, outlives a crash."""
    findings = [
        _warning(
            "postgres-durability",
            f"{setting} is off: {loss}, also of orders that were answered 202",
            f"ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf(); and look for one set for "
            "the database or the role",
        )
        for setting, loss in (
            ("fsync", "a crash of the machine may destroy the database"),
            ("synchronous_commit", "a crash loses the last commits"),
        )
        if site.facts[setting] == "off"
    ]
    return findings or [_ok("postgres-durability", "fsync and synchronous_commit are on")]


async def postgres_clock(site: PostgresSite) -> Findings:
    """Compare the clock of PostgreSQL with that of this machine."""

    async def ask() -> float:
        now = await site.connection.fetchval("SELECT clock_timestamp()")
        return float(now.timestamp())

    return await _compare_clocks("postgres-clock", "PostgreSQL", ask)


async def unsettled(site: PostgresSite) -> Findings:
    """Count the orders that should have come to their end by now."""
    try:
        count = await site.connection.fetchval(
            """SELECT count(*) FROM (
                   SELECT FROM orders
                   WHERE notified_at IS NULL AND created_at < now() - make_interval(secs => $1)
                   LIMIT $2
               ) late""",
            _UNSETTLED_AFTER_S,
            _UNSETTLED_COUNTED + 1,
        )
    except asyncpg.UndefinedTableError:
        # Without a schema there is no order; `migrations` says so.
        return []
    if not count:
        return [_ok("unsettled", "No order is unsettled for over 10 minutes")]
    many = f"Over {_UNSETTLED_COUNTED:,}" if count > _UNSETTLED_COUNTED else str(count)
    return [
        _warning(
            "unsettled",
            f"{many} orders are unsettled for over 10 minutes: not paid or not told yet",
            "See that all three workers run, and what they log; "
            "`orderflow reconcile` puts back jobs that were lost",
        )
    ]


# --- How it is done -------------------------------------------------------------------------------

REDIS_CHECKS: Sequence[Callable[[RedisSite], Awaitable[Findings]]] = (
    redis_version,
    redis_role,
    redis_eviction,
    redis_memory,
    redis_persistence,
    redis_clock,
    prefix,
    priorities,
    paused,
    workers,
)
POSTGRES_CHECKS: Sequence[Callable[[PostgresSite], Awaitable[Findings]]] = (
    postgres_version,
    migrations,
    postgres_durability,
    postgres_clock,
    unsettled,
)

_REDIS_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
_POSTGRES_AWAY = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
_SETTINGS_LOOKED_AT = ("server_version", "fsync", "synchronous_commit")


async def _examine_redis(settings: Settings) -> Findings:
    fix = "Start Redis, or set REDIS_URL, or REDIS_HOST, REDIS_PORT and REDIS_PASSWORD"
    try:
        client = connect_producer(settings.redis_dsn, _PATIENCE_MS)
    except ValueError:
        return [_unreadable("redis", "REDIS_URL")]
    findings: Findings = []
    try:
        queues = JobQueues(client, settings.queue_prefix, settings.priorities)
        site = RedisSite(settings, client, queues, await client.info())
        await _run(REDIS_CHECKS, site, ResponseError, findings)
    except (*_REDIS_AWAY, RedisError) as error:
        findings.append(_error("redis", f"Redis cannot be used: {_reason(error)}", fix))
    finally:
        await client.aclose()
    return findings


async def _examine_postgres(settings: Settings) -> Findings:
    patience_s = _PATIENCE_MS / 1000
    findings: Findings = []
    try:
        connection = await asyncpg.connect(
            settings.database_dsn, timeout=patience_s, command_timeout=patience_s
        )
    except ValueError:
        # Its words may be a part of the password.
        return [_unreadable("postgres", "DATABASE_URL")]
    except (*_POSTGRES_AWAY, asyncpg.PostgresError) as error:
        return [_postgres_away(error)]
    try:
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])",
            _SETTINGS_LOOKED_AT,
        )
        site = PostgresSite(connection, {row["name"]: row["setting"] for row in rows})
        await _run(POSTGRES_CHECKS, site, asyncpg.PostgresError, findings)
    except (*_POSTGRES_AWAY, asyncpg.PostgresError) as error:
        findings.append(_postgres_away(error))
    finally:
        with suppress(*_POSTGRES_AWAY):
            await connection.close(timeout=patience_s)
    return findings


def _postgres_away(error: Exception) -> Finding:
    return _error(
        "postgres",
        f"PostgreSQL cannot be used: {_reason(error)}",
        "Start PostgreSQL, or set DATABASE_URL",
    )


async def _run(
    checks: Sequence[Callable[[Site], Awaitable[Findings]]],
    site: Site,
    refused: type[Exception],
    findings: Findings,
) -> None:
    """Run the checks; one that the server refuses to answer is a warning, and the rest goes on."""
    for check in checks:
        try:
            findings += await check(site)
        except (*_REDIS_AWAY, *_POSTGRES_AWAY):
            raise
        except refused as error:
            findings.append(
                _warning(
                    check.__name__.replace("_", "-"),
                    f"This could not be looked at: {_reason(error)}",
                    "Give the user of orderflow the right to ask, or look by hand",
                )
            )


async def _compare_clocks(name: str, server: str, ask: Callable[[], Awaitable[float]]) -> Findings:
    before = time.time()
    theirs = await ask()
    after = time.time()
    apart = theirs - (before + after) / 2
    # What the way to the server and back took may be all of the difference.
    surely = abs(apart) - (after - before) / 2
    if surely <= _CLOCK_WARNING_S:
        return [_ok(name, f"The clock of {server} is that of this machine")]
    direction = "ahead of" if apart > 0 else "behind"
    return [
        Finding(
            name,
            Severity.ERROR if surely > _CLOCK_ERROR_S else Severity.WARNING,
            f"The clock of {server} is {abs(apart):.1f} s {direction} that of this machine: delays "
            "and backoffs are off by as much",
            "Run a time service, as chrony, on both machines",
        )
    ]


async def _find_queues(client: Redis) -> tuple[dict[str, set[str]], bool]:
    """Return the names of all queues by prefix, and whether every key was looked at."""
    found: dict[str, set[str]] = {}
    cursor = 0
    for _ in range(_SCAN_STEPS):
        cursor, keys = await client.scan(cursor, match="*:*:meta", count=_SCAN_STEP)
        for key in keys:
            # Neither a prefix of ours nor the name of a queue has a colon.
            parts = str(key).split(":")
            if len(parts) == 3:
                found.setdefault(parts[0], set()).add(parts[1])
        if cursor == 0:
            return found, True
    return found, False


async def _judge_foreign(site: RedisSite, names: Sequence[str]) -> Findings:
    """Say which queues are not of the contract; one with jobs and no worker may be a slip."""
    if not names:
        return []
    clients = await site.client.client_list()
    idle = [
        name
        for name in names
        if (
            await site.client.llen(site.key(name, "wait"))
            or await site.client.zcard(site.key(name, "prioritized"))
        )
        and not any(_worker(client, site.settings.queue_prefix, name) for client in clients)
    ]
    findings = [_ok("prefix", f"Other queues under the same prefix: {_listed(names)}")]
    if idle:
        findings.append(
            _warning(
                "prefix",
                f"Jobs wait in queues that are not of the contract and have no worker: "
                f"{_listed(idle)}",
                f"If a name is misspelled, the producer must use one of: {_listed(QueueName)}",
            )
        )
    return findings


_PROCESS = re.compile(r".+-\d+")


def _worker(client: Mapping[str, str], prefix: str, queue: str) -> str | None:
    """Return what kind of worker on `queue` a connection belongs to, or None.

    Redis 7.2 and newer know the library of a connection. Before, the name has to do: ours always
    end in a process id, and Node's have a name only if they were given one.
    """
    base, _, name = client.get("name", "").partition(":w:")
    if base == f"{prefix}:{queue}":
        return "of the stock Python client"
    if base != node_client_name(prefix, queue):
        return None
    library = client.get("lib-name") or ""
    ours = library.startswith("redis-py") if library else bool(_PROCESS.fullmatch(name))
    return "of orderflow" if ours else "of Node"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _listed(values: Sequence[object] | type[QueueName]) -> str:
    shown = [str(value) for value in values]
    more = len(shown) - _NAMED_AT_MOST
    return ", ".join(shown[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _reason(error: Exception) -> str:
    """Return the kind of an error and what it says; neither client tells a password."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _unreadable(check: str, variable: str) -> Finding:
    return _error(
        check,
        f"{variable} is not a URL that can be read",
        "Percent-encode what is not a letter or a digit in its user and password",
    )


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Severity.OK, message)


def _warning(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Severity.WARNING, message, fix)


def _error(check: str, message: str, fix: str) -> Finding:
    return Finding(check, Severity.ERROR, message, fix)
