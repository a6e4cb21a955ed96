"""The doctor, on servers that are well, ill in one way each, and away."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from tests.integration.cli import run_command
from uuid_utils.compat import uuid7

from orderflow.breaker import Outage
from orderflow.bull.producer import node_client_name
from orderflow.bull.queues import open_queues
from orderflow.contract import QueueName
from orderflow.db.migrate import migrate
from orderflow.doctor import Finding, Severity, examine, worst
from orderflow.doctor import postgres as postgres_checks
from orderflow.doctor import queues as queue_checks
from orderflow.doctor import redis as redis_checks
from orderflow.sandbox.servers import Server, free_port, start_postgres, start_redis
from orderflow.settings import Settings

PREFIX = "bull"
_databases = itertools.count(1)


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[Server]:
    """A PostgreSQL as in production: the one that the other tests share does without fsync."""
    with tempfile.TemporaryDirectory(prefix="orderflow-postgres-") as folder:
        server = start_postgres(Path(folder), free_port())
        asyncio.run(migrate(server.url))
        yield server
        server.stop()


@pytest.fixture
async def durable_url(durable_postgres: Server) -> AsyncIterator[str]:
    name = f"doctor_{next(_databases)}"
    base = durable_postgres.url.removesuffix("/postgres")
    admin = await asyncpg.connect(f"{base}/template1")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE postgres")
    yield f"{base}/{name}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database(durable_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(durable_url)
    yield connection
    await connection.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    server = start_redis(tmp_path / "redis", free_port())
    yield server
    server.stop()


@pytest.fixture
def redis(own_redis: Server) -> Iterator[Redis]:
    with Redis.from_url(own_redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def workers(own_redis: Server) -> Iterator[None]:
    """A worker of ours on each queue, as far as Redis can tell."""
    clients = []
    for queue in QueueName:
        client = Redis.from_url(own_redis.url, single_connection_client=True)
        client.client_setname(f"{node_client_name(PREFIX, queue)}:w:host-{len(clients)}")
        clients.append(client)
    yield
    for client in clients:
        client.close()


@pytest.fixture
def well(own_redis: Server, durable_url: str, workers: None) -> Settings:  # noqa: ARG001
    """Settings of a system that has nothing wrong with it."""
    return Settings(_env_file=None, redis_url=own_redis.url, database_url=durable_url)


def run_doctor(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor as a person does, with only these settings."""
    return run_command("doctor", *args, environment={"LANG": "C.UTF-8"} | environment)


def as_environment(settings: Settings) -> dict[str, str]:
    return {"REDIS_URL": settings.redis_dsn, "DATABASE_URL": settings.database_dsn}


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


async def only_fault(settings: Settings) -> Finding:
    """Return the one thing that is wrong."""
    faults = [f for f in await examine(settings) if f.severity is not Severity.OK]
    assert len(faults) == 1, faults
    assert faults[0].fix, "a fault that says no way out"
    return faults[0]


# --- As a process ---------------------------------------------------------------------------------


def test_a_system_that_is_well_exits_with_0(well):
    done = run_doctor(**as_environment(well))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines), done.stdout
    assert "payment-processing: 1 of orderflow" in done.stdout
    assert "The schema is up to date" in done.stdout


def test_a_warning_exits_with_1_and_says_what_to_do(well, redis):
    redis.hset(f"{PREFIX}:notifications:meta", "paused", "1")
    done = run_doctor(**as_environment(well))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("WARNING")]
    assert "notifications is paused" in lines[at]
    assert lines[at + 1].strip().startswith("fix: Resume it")


def test_an_error_exits_with_2(well, redis):
    redis.hset(f"{PREFIX}:notifications:meta", "paused", "1")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    done = run_doctor(**as_environment(well))
    assert done.returncode == 2
    assert done.stdout.count("ERROR") == done.stdout.count("WARNING") == 1


def test_the_same_as_json(well, redis):
    redis.config_set("maxmemory-policy", "allkeys-lru")
    done = run_doctor("--json", **as_environment(well))
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["status"] == "error"
    [fault] = [found for found in report["findings"] if found["severity"] != "ok"]
    assert fault == {
        "check": "redis-eviction",
        "severity": "error",
        "message": "maxmemory-policy is allkeys-lru: when memory is short, Redis deletes jobs",
        "fix": "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    }
    assert {tuple(found) for found in report["findings"]} == {
        ("check", "severity", "message", "fix")
    }


def test_a_wrong_setting_is_told_and_exits_with_2():
    done = run_doctor(QUEUE_PREFIX="with:colon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "QUEUE_PREFIX" in done.stderr


def test_help_tells_the_exit_statuses():
    told = " ".join(run_doctor("--help").stdout.split())
    assert "0 all is well, 1 there are warnings, 2 there are errors" in told


def test_nothing_is_changed_in_redis(well, redis):
    before = sorted(redis.keys())
    assert run_doctor(**as_environment(well)).returncode == 0
    assert sorted(redis.keys()) == before


def test_redis_away_is_an_error_and_postgres_is_looked_at(durable_url):
    done = run_doctor("--json", REDIS_PORT=str(free_port()), DATABASE_URL=durable_url)
    assert done.returncode == 2
    found = json.loads(done.stdout)["findings"]
    assert [f["check"] for f in found if f["severity"] == "error"] == ["redis"]
    assert "cannot be used: ConnectionError" in found[0]["message"]
    assert {"migrations", "unsettled"} <= {f["check"] for f in found}


@pytest.mark.usefixtures("workers")
def test_postgres_away_is_an_error_and_redis_is_looked_at(own_redis):
    nowhere = f"postgresql://shop@127.0.0.1:{free_port()}/shop"
    done = run_doctor("--json", REDIS_URL=own_redis.url, DATABASE_URL=nowhere)
    assert done.returncode == 2
    found = json.loads(done.stdout)["findings"]
    assert [f["check"] for f in found if f["severity"] == "error"] == ["postgres"]
    assert {"redis-version", "workers"} <= {f["check"] for f in found}


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize("args", [(), ("--json",)])
@pytest.mark.parametrize("password", [SECRET, f"{SECRET}%23{SECRET}"])
def test_no_password_is_shown(own_redis, durable_postgres, redis, args, password):
    redis.config_set("requirepass", "another")
    done = run_doctor(
        *args,
        REDIS_URL=f"redis://shop:{password}@127.0.0.1:{own_redis.port}/0",
        DATABASE_URL=f"postgresql://shop:{password}@127.0.0.1:{durable_postgres.port}/shop",
    )
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    assert done.stderr == ""


def test_urls_with_parameters_that_cannot_be_read_are_errors():
    done = run_doctor(
        "--json",
        REDIS_URL=f"redis://shop:{SECRET}@127.0.0.1:1/0?socket_timeout=soon",
        DATABASE_URL=f"postgresql://shop:{SECRET}@127.0.0.1:1/shop?sslmode=maybe",
    )
    assert done.returncode == 2
    found = json.loads(done.stdout)["findings"]
    assert [f["message"] for f in found if f["severity"] == "error"] == [
        "REDIS_URL is not a URL that can be read",
        "DATABASE_URL is not a URL that can be read",
    ]
    assert SECRET not in done.stdout + done.stderr


def test_a_password_that_is_right_is_not_shown(own_redis, durable_url, redis):
    redis.config_set("requirepass", SECRET)
    done = run_doctor(
        REDIS_PORT=str(own_redis.port), REDIS_PASSWORD=SECRET, DATABASE_URL=durable_url
    )
    assert "Redis 6" in done.stdout
    assert SECRET not in done.stdout + done.stderr


# --- Redis ----------------------------------------------------------------------------------------


async def test_a_redis_that_hangs_is_given_up_on(well, own_redis):
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            fault = await only_fault(well)
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert (fault.check, fault.severity) == ("redis", Severity.ERROR)


async def site_of(settings: Settings, redis: Redis, **info: object) -> redis_checks.RedisSite:
    """Return a site whose Redis says these things of itself."""
    from redis.asyncio import Redis as AsyncRedis

    client = AsyncRedis.from_url(settings.redis_dsn, decode_responses=True)
    return redis_checks.RedisSite(client, redis.info() | info)


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ("5.0.7", Severity.ERROR),
        ("6.0.16", Severity.ERROR),
        ("6.2.0", Severity.OK),
        ("7.2.4", Severity.OK),
        ("10.0.0-rc1", Severity.OK),
    ],
)
async def test_a_redis_older_than_bullmq_asks_for(well, redis, version, severity):
    site = await site_of(well, redis, redis_version=version)
    [finding] = await redis_checks.redis_version(site)
    assert finding.severity is severity
    assert version in finding.message
    await site.client.aclose()


async def test_an_append_only_file_that_cannot_be_written(well, redis):
    site = await site_of(well, redis, aof_last_write_status="err")
    [finding] = await redis_checks.redis_persistence(site)
    assert finding.severity is Severity.ERROR
    await site.client.aclose()


async def test_a_replica(well, own_redis, tmp_path):
    replica = start_redis(tmp_path / "replica", free_port())
    with Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", str(own_redis.port))
    settings = Settings(
        _env_file=None, redis_url=replica.url, database_url=well.database_url.get_secret_value()
    )
    [finding] = of(await examine(settings), "redis-role")
    replica.kill()
    assert finding.severity is Severity.ERROR


async def test_a_policy_that_evicts(well, redis):
    redis.config_set("maxmemory-policy", "volatile-lru")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("redis-eviction", Severity.ERROR)


async def test_memory_that_is_nearly_used_up(well, redis):
    redis.config_set("maxmemory", int(redis.info()["used_memory"] * 1.1))
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("redis-memory", Severity.WARNING)
    redis.config_set("maxmemory", int(redis.info()["used_memory"] * 10))
    assert worst(await examine(well)) is Severity.OK


async def test_neither_kind_of_persistence(well, redis):
    redis.config_set("appendonly", "no")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("redis-persistence", Severity.WARNING)
    redis.config_set("save", "900 1")
    assert worst(await examine(well)) is Severity.OK


async def test_a_snapshot_that_failed(well, redis, tmp_path):
    redis.config_set("appendonly", "no")
    redis.config_set("save", "900 1")
    gone = tmp_path / "gone"
    gone.mkdir()
    redis.config_set("dir", str(gone))
    gone.rmdir()
    redis.bgsave()
    async with asyncio.timeout(10):
        while redis.info()["rdb_last_bgsave_status"] == "ok":
            await asyncio.sleep(0.01)
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("redis-persistence", Severity.ERROR)
    # Or it would not end before it has saved.
    redis.config_set("save", "")


async def test_what_redis_may_not_be_asked_is_a_warning_and_the_rest_goes_on(well, redis):
    redis.config_set("appendonly", "no")
    redis.execute_command("ACL", "SETUSER", "default", "-config", "-client")
    findings = await examine(well)
    assert [f.check for f in findings if f.severity is not Severity.OK] == [
        "redis-persistence",
        "workers",
    ]
    [finding] = of(findings, "redis-persistence")
    assert "could not be looked at: NoPermissionError" in finding.message


@pytest.mark.parametrize(
    ("off_by_s", "severity"),
    [(0.2, Severity.OK), (3, Severity.WARNING), (-3, Severity.WARNING), (-8, Severity.ERROR)],
)
async def test_clocks_that_differ(well, monkeypatch, off_by_s, severity):
    real = time.time
    monkeypatch.setattr("orderflow.doctor.findings.time.time", lambda: real() - off_by_s)
    findings = await examine(well)
    for check in ("redis-clock", "postgres-clock"):
        [finding] = of(findings, check)
        assert finding.severity is severity
        if severity is not Severity.OK:
            assert f"{abs(off_by_s):.1f} s" in finding.message
            assert ("ahead of" in finding.message) == (off_by_s > 0)


async def test_other_queues_are_named_and_are_no_fault(well, redis):
    for name in ("invoices", "labels"):
        redis.hset(f"{PREFIX}:{name}:meta", "opts.maxLenEvents", "10000")
    redis.hset("other:thing:meta", "a", "b")
    redis.hset(f"{PREFIX}:notifications:meta", "opts.maxLenEvents", "10000")
    [finding] = of(await examine(well), "prefix")
    assert finding.severity is Severity.OK
    assert finding.message == "Other queues under the same prefix: invoices, labels"


@pytest.mark.parametrize("part", ["wait", "prioritized"])
async def test_jobs_in_another_queue_without_a_worker(well, own_redis, part):
    async with open_queues(well) as queues:
        await queues.queue("payments").add(
            "process-payment", {}, {"priority": 1} if part == "prioritized" else {}
        )
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("prefix", Severity.WARNING)
    assert "have no worker: payments" in fault.message
    assert "payment-processing" in fault.fix
    with Redis.from_url(own_redis.url, single_connection_client=True) as client:
        client.client_setname(node_client_name(PREFIX, "payments"))
        assert worst(await examine(well)) is Severity.OK


async def test_queues_under_another_prefix_than_ours(well, redis):
    redis.hset("shop:payment-processing:meta", "opts.maxLenEvents", "10000")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("prefix", Severity.WARNING)
    assert "they are under: shop" in fault.message
    redis.hset(f"{PREFIX}:notifications:meta", "opts.maxLenEvents", "10000")
    assert worst(await examine(well)) is Severity.OK


async def test_a_search_of_keys_that_is_bounded_says_so(well, redis, monkeypatch):
    monkeypatch.setattr("orderflow.doctor.queues._SCAN_STEPS", 1)
    monkeypatch.setattr("orderflow.doctor.queues._SCAN_STEP", 10)
    for number in range(200):
        redis.set(f"noise:{number}", "")
    [finding] = of(await examine(well), "prefix")
    assert finding.message == "Only the first 10 keys were looked through"


async def test_priorities_of_another_numbering(well):
    async with open_queues(well) as queues:
        for priority in (1, 5, 10, 2_097_151):
            await queues.queue("payment-processing").add("process-payment", {}, {"priority": 1})
            await queues.queue("payment-processing").add(
                "process-payment", {}, {"priority": priority}
            )
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("priorities", Severity.WARNING)
    assert "priority 5, 2097151, which is none of 1, 10, 20" in fault.message


async def test_a_queue_that_is_paused(well):
    async with open_queues(well) as queues:
        await queues.queue("payment-processing").pause()
        fault = await only_fault(well)
        assert (fault.check, fault.severity) == ("paused", Severity.WARNING)
        await queues.queue("payment-processing").resume()
        assert worst(await examine(well)) is Severity.OK


async def test_jobs_that_a_5x_client_laid_aside(well, redis):
    redis.rpush(f"{PREFIX}:order-processing:paused", "1", "2", "3")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("paused", Severity.WARNING)
    assert "order-processing: 3 jobs lie in the list `paused`" in fault.message
    assert "queue.resume()" in fault.fix


async def test_a_gateway_that_is_left_alone(well):
    since = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
    async with open_queues(well) as queues:
        await queues.tell_of_outage("gateway", Outage("HTTP 500", since, datetime.now(UTC)))
        fault = await only_fault(well)
        assert (fault.check, fault.severity) == ("gateway", Severity.WARNING)
        assert "since 2026-03-01 12:00:07 UTC (HTTP 500)" in fault.message
        await queues.tell_of_outage("gateway", None)
        assert worst(await examine(well)) is Severity.OK


async def test_workers_by_language(well, own_redis):
    names = [
        node_client_name(PREFIX, "notifications"),
        f"{node_client_name(PREFIX, 'notifications')}:w:mailer",
        f"{PREFIX}:notifications",
        f"{PREFIX}:notifications:w:stock",
        f"{node_client_name(PREFIX, 'notifications')}:qe",
        f"{node_client_name('other', 'notifications')}",
    ]
    clients = [Redis.from_url(own_redis.url, single_connection_client=True) for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.client_setname(name)
    findings = of(await examine(well), "workers")
    for client in clients:
        client.close()
    assert [finding.message for finding in findings] == [
        "payment-processing: 1 of orderflow",
        "notifications: 2 of Node, 1 of orderflow, 2 of the stock Python client",
        "order-processing: 1 of orderflow",
    ]


async def test_the_library_of_a_connection_wins_over_its_name():
    """Redis 7.2 tells it."""
    name = f"{node_client_name(PREFIX, 'notifications')}:w:mailer-7"
    seen = {
        library: queue_checks._worker({"name": name, "lib-name": library}, PREFIX, "notifications")
        for library in ("redis-py", "redis-py(hiredis)", "ioredis", "")
    }
    assert seen == {
        "redis-py": "of orderflow",
        "redis-py(hiredis)": "of orderflow",
        "ioredis": "of Node",
        "": "of orderflow",
    }


async def test_a_queue_without_a_worker(own_redis, durable_url):
    settings = Settings(_env_file=None, redis_url=own_redis.url, database_url=durable_url)
    findings = of(await examine(settings), "workers")
    assert [f.severity for f in findings] == [Severity.WARNING] * 3
    assert [f.fix for f in findings] == [
        "python -m orderflow.worker payment",
        "python -m orderflow.worker notification",
        "python -m orderflow.worker order",
    ]


# --- PostgreSQL -----------------------------------------------------------------------------------


async def test_a_database_without_a_schema(well, durable_postgres, database):
    await database.execute("CREATE DATABASE nothing_yet TEMPLATE template0")
    base = durable_postgres.url.removesuffix("/postgres")
    settings = Settings(
        _env_file=None, redis_url=well.redis_dsn, database_url=f"{base}/nothing_yet"
    )
    fault = await only_fault(settings)
    assert (fault.check, fault.severity) == ("migrations", Severity.ERROR)
    assert fault.fix == "orderflow migrate"
    await migrate(settings.database_dsn)
    assert worst(await examine(settings)) is Severity.OK


async def test_a_schema_that_is_behind(well, monkeypatch):
    async def behind(_connection: object) -> tuple[str, str]:
        return "0001", "0002"

    monkeypatch.setattr("orderflow.doctor.postgres.revisions", behind)
    fault = await only_fault(well)
    assert fault.message == "The schema is at 0001 and has to be at 0002"
    assert fault.fix == "orderflow migrate"


async def test_a_schema_of_a_newer_version(well, database):
    await database.execute("UPDATE alembic_version SET version_num = '9999'")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("migrations", Severity.ERROR)
    assert "9999" in fault.message


async def test_a_database_that_is_not_there(well, durable_postgres):
    base = durable_postgres.url.removesuffix("/postgres")
    settings = Settings(_env_file=None, redis_url=well.redis_dsn, database_url=f"{base}/nowhere")
    fault = await only_fault(settings)
    assert (fault.check, fault.severity) == ("postgres", Severity.ERROR)
    assert '"nowhere" does not exist' in fault.message


async def test_pools_that_may_open_more_connections_than_there_are(well):
    fault = await only_fault(well.model_copy(update={"database_pool_size": 25}))
    assert (fault.check, fault.severity) == ("postgres-connections", Severity.WARNING)
    said = (
        "4 processes with DATABASE_POOL_SIZE=25 may open 106 connections, and PostgreSQL takes 97"
    )
    assert fault.message.startswith(said)
    assert fault.fix.startswith("Set DATABASE_POOL_SIZE to 22")


async def test_commits_that_do_not_wait_for_the_disk(well, database):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("postgres-durability", Severity.WARNING)
    assert fault.message.startswith("synchronous_commit is off")


async def test_a_server_without_fsync(well, database_url):
    settings = Settings(_env_file=None, redis_url=well.redis_dsn, database_url=database_url)
    fault = await only_fault(settings)
    assert (fault.check, fault.severity) == ("postgres-durability", Severity.WARNING)
    assert fault.message.startswith("fsync is off")


@pytest.mark.parametrize(
    ("version", "severity"),
    [("13.14", Severity.WARNING), ("14.0", Severity.OK), ("17.2 (Debian)", Severity.OK)],
)
async def test_an_old_postgres(database, version, severity):
    site = postgres_checks.PostgresSite(
        database, {"server_version": version}, Settings(_env_file=None)
    )
    [finding] = await postgres_checks.postgres_version(site)
    assert finding.severity is severity


async def test_orders_that_do_not_come_to_an_end(well, database, monkeypatch):
    await database.execute(
        """INSERT INTO orders (id, source, status, total, currency, created_at, notified_at)
           SELECT gen_random_uuid(), 'external', 'confirmed', 1, 'EUR', now() - age,
                  CASE WHEN told THEN now() END
           FROM (VALUES (interval '11 min', false), (interval '2 h', false),
                        (interval '9 min', false), (interval '2 h', true)) o(age, told)"""
    )
    fault = await only_fault(well)
    assert (fault.check, fault.severity) == ("unsettled", Severity.WARNING)
    assert fault.message.startswith("2 orders are unsettled")
    monkeypatch.setattr("orderflow.doctor.postgres._UNSETTLED_COUNTED", 1)
    assert (await only_fault(well)).message.startswith("Over 1 orders")


@pytest.mark.parametrize(
    ("order", "payment", "age", "message"),
    [
        ("processing", "pending", "90 min", "1 orders are open for longer"),
        ("confirmed", "failed", "0 s", "1 orders are confirmed and not paid"),
        ("cancelled", "completed", "0 s", "1 payments were taken whose orders are not confirmed"),
    ],
)
async def test_what_must_hold_of_all_orders(well, database, order, payment, age, message):
    await add_order(database, order, payment, age)
    [finding] = of(await examine(well), "invariants")
    assert finding.severity is Severity.ERROR
    assert finding.message.startswith(message)
    assert finding.fix


async def test_a_charge_that_nobody_gets_anything_for(well, database):
    await add_order(database, "cancelled", "failed", "0 s")
    await database.execute("INSERT INTO stray_charges SELECT id, 'ch_1' FROM payments")
    assert (await only_fault(well)).message.startswith("1 charges came for payments")
    await database.execute("UPDATE stray_charges SET refunded_at = now()")
    assert worst(await examine(well)) is Severity.OK


async def test_a_limit_of_time_says_when_an_order_is_late(well, database):
    await add_order(database, "processing", "pending", "9 min")
    limited = well.model_copy(update={"order_ttl_s": 60})
    assert of(await examine(limited), "invariants")[0].severity is Severity.OK
    await database.execute("UPDATE orders SET created_at = now() - interval '12 min'")
    assert of(await examine(limited), "invariants")[0].severity is Severity.ERROR


async def add_order(
    database: asyncpg.Connection[asyncpg.Record], order: str, payment: str, age: str
) -> None:
    """Add an order whose customer was told, if it is over."""
    order_id, payment_id = uuid7(), uuid7()
    await database.execute(
        f"""INSERT INTO orders (id, source, status, total, currency, created_at, notified_at)
            SELECT $1, 'external', $2, 1, 'EUR', now() - interval '{age}',
                   CASE WHEN $2 NOT IN ('pending', 'processing') THEN now() END""",
        order_id,
        order,
    )
    await database.execute(
        """INSERT INTO payments (id, order_id, method, amount, currency, status, transaction_id,
                                 decline_reason)
           VALUES ($1, $2, 'card', 1, 'EUR', $3, 'ch_1', 'no')""",
        payment_id,
        order_id,
        payment,
    )


async def test_what_postgres_may_not_be_asked_is_a_warning(well, database):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"CREATE ROLE nobody_{name} LOGIN")
    url = well.database_dsn.replace("//postgres@", f"//nobody_{name}@")
    settings = Settings(_env_file=None, redis_url=well.redis_dsn, database_url=url)
    faults = [f for f in await examine(settings) if f.severity is not Severity.OK]
    assert [f.check for f in faults] == ["migrations", "unsettled", "invariants"]
    assert all("could not be looked at: InsufficientPrivilege" in f.message for f in faults)


def test_the_worst_of_nothing_is_fine():
    assert worst([]) is Severity.OK
    fine = Finding("x", Severity.OK, "")
    assert worst([fine, replace(fine, severity=Severity.ERROR), fine]) is Severity.ERROR
