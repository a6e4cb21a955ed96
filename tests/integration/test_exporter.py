"""The exporter as a process, scraped as Prometheus does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from tests.conftest import process_environment, start_program, wait_until

from orderflow.breaker import Outage
from orderflow.invariants import INVARIANTS
from orderflow.sandbox.servers import free_port, port_is_taken, start_redis

PAYMENTS = "payment-processing"
QUEUES = {PAYMENTS, "notifications", "order-processing"}
STATES = {
    *("waiting", "prioritized", "active", "completed", "failed", "delayed", "paused"),
    "waiting-children",
}


@pytest.fixture
def exporter(redis_server, settings, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    program = start_program(
        tmp_path / "exporter.log",
        "orderflow.exporter",
        environment={
            "REDIS_URL": redis_server.url,
            "DATABASE_URL": settings.database_dsn,
            "QUEUE_PREFIX": settings.queue_prefix,
            "EXPORTER_PORT": str(port),
        },
    )
    wait_until(lambda: port_is_taken(port), "the exporter")
    yield f"http://127.0.0.1:{port}/metrics"
    assert program.stop() == 0


def scrape(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    text = httpx.get(url, trust_env=False).raise_for_status().text
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


#: All that there is to say while both servers are away.
AWAY = {"orderflow_redis_up": {(): 0}, "orderflow_postgres_up": {(): 0}}


def without_build(metrics: dict[str, dict[tuple[str, ...], float]]) -> dict[str, object]:
    return {name: value for name, value in metrics.items() if name != "orderflow_build_info"}


def test_every_queue_has_every_state(exporter):
    metrics = scrape(exporter)
    assert metrics["orderflow_redis_up"] == {(): 1}
    counts = metrics["bullmq_job_count"]
    assert set(counts) == {(queue, state) for queue in QUEUES for state in STATES}
    assert set(counts.values()) == {0}


def test_each_state_counts_its_own_jobs(exporter, redis_server, settings):
    prefix = f"{settings.queue_prefix}:payment-processing"
    with Redis.from_url(redis_server.url) as redis:
        redis.rpush(f"{prefix}:wait", "a")
        redis.zadd(f"{prefix}:prioritized", {"b": 1, "c": 2})
        redis.rpush(f"{prefix}:active", "d", "e")
        redis.zadd(f"{prefix}:completed", {"f": 1})
        redis.zadd(f"{prefix}:failed", {str(number): 1 for number in range(4)})
        redis.zadd(f"{prefix}:delayed", {str(number): 1 for number in range(5)})
        redis.rpush(f"{prefix}:paused", *"ghijkl")
    counts = scrape(exporter)["bullmq_job_count"]
    assert {state: counts["payment-processing", state] for state in STATES} == {
        "waiting": 1,
        "prioritized": 2,
        "active": 2,
        "completed": 1,
        "failed": 4,
        "delayed": 5,
        "paused": 6,
        "waiting-children": 0,
    }
    assert counts["notifications", "waiting"] == 0


async def test_a_gateway_that_is_left_alone_is_seen(exporter, resources):
    assert scrape(exporter)["orderflow_breaker_open"] == {("gateway",): 0}
    now = datetime.now(UTC)
    await resources.queues.tell_of_outage("gateway", Outage("HTTP 500", now, now))
    assert scrape(exporter)["orderflow_breaker_open"] == {("gateway",): 1}
    await resources.queues.tell_of_outage("gateway", None)
    assert scrape(exporter)["orderflow_breaker_open"] == {("gateway",): 0}


async def test_a_checkout_is_seen_waiting(exporter, place):
    await place()
    assert scrape(exporter)["bullmq_job_count"]["payment-processing", "prioritized"] == 1


def ages(exporter: str) -> dict[str, float]:
    """Return the age of the payment that is next in line, by priority."""
    oldest = scrape(exporter)["orderflow_queue_oldest_waiting_seconds"]
    # The labels come sorted by their names.
    return {priority: age for (priority, queue), age in oldest.items() if queue == PAYMENTS}


async def test_the_age_of_the_job_that_is_next_by_priority(exporter, resources, settings):
    """Of two with one priority the first in line counts, and a delay at the start does not."""
    assert set(ages(exporter).values()) == {0}
    queue = resources.queues.queue("payment-processing")
    now_ms = round(time.time() * 1000)
    for priority, age_s, delay_s in (
        (settings.priority_high, 100, 0),
        (settings.priority_high, 50, 0),
        (settings.priority_medium, 200, 0),
        (settings.priority_low, 300, 0),
        (7, 400, 0),
        (0, 500, 40),
    ):
        added_ms = now_ms - (age_s + delay_s) * 1000
        options = {"timestamp": added_ms, "priority": priority}
        job = await queue.add("probe", {}, options)
        if delay_s:
            # As it is once its delay is over.
            key = f"{settings.queue_prefix}:payment-processing:{job.id}"
            await resources.queues.client_of("payment-processing").hset(
                key, "opts", json.dumps({"delay": delay_s * 1000})
            )
    seen = ages(exporter)
    passed_s = time.time() - now_ms / 1000
    assert seen.keys() == {"high", "medium", "low", "other", "none"}
    for name, age_s in {"high": 100, "medium": 200, "low": 300, "other": 400, "none": 500}.items():
        assert age_s <= seen[name] <= age_s + passed_s, name


async def test_a_job_that_cannot_be_read_has_no_age_and_does_no_harm(exporter, redis, settings):
    key = f"{settings.queue_prefix}:payment-processing"
    redis.rpush(f"{key}:wait", "gone")
    redis.hset(f"{key}:odd", mapping={"timestamp": "yesterday", "opts": "[1"})
    redis.zadd(f"{key}:prioritized", {"odd": settings.priority_high * 2**32 + 1})
    assert scrape(exporter)["orderflow_redis_up"] == {(): 1}
    assert ages(exporter)["high"] == ages(exporter)["none"] == 0


async def test_a_delayed_job_that_nobody_takes_is_overdue(exporter, redis, settings):
    overdue = "orderflow_queue_delayed_overdue_seconds"
    delayed = f"{settings.queue_prefix}:payment-processing:delayed"
    redis.zadd(delayed, {"later": (time.time() + 3_600) * 1000 * 4096})
    assert scrape(exporter)[overdue]["payment-processing",] == 0
    due = time.time() - 30
    redis.zadd(delayed, {"now": due * 1000 * 4096})
    seen = scrape(exporter)[overdue]["payment-processing",]
    assert 30 <= seen <= time.time() - due + 0.001


async def test_a_paused_queue_is_seen(exporter, resources):
    paused = "orderflow_queue_paused"
    await resources.queues.queue("notifications").pause()
    assert scrape(exporter)[paused]["notifications",] == 1
    assert scrape(exporter)[paused]["payment-processing",] == 0
    await resources.queues.queue("notifications").resume()
    assert scrape(exporter)[paused]["notifications",] == 0


def test_a_redis_that_may_lose_jobs_is_seen(tmp_path: Path, settings):
    server = start_redis(
        tmp_path / "redis",
        free_port(),
        settings={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"},
    )
    port = free_port()
    environment = process_environment(settings) | {
        "REDIS_URL": server.url,
        "EXPORTER_PORT": str(port),
    }
    program = start_program(tmp_path / "log", "orderflow.exporter", environment=environment)
    try:
        wait_until(lambda: port_is_taken(port), "the exporter")
        metrics = scrape(f"http://127.0.0.1:{port}/metrics")
        assert metrics["orderflow_redis_eviction_policy_wrong"] == {(): 1}
        assert metrics["orderflow_redis_memory_max_bytes"] == {(): 100 * 2**20}
        assert metrics["orderflow_redis_memory_used_bytes"][()] > 0
        assert metrics["orderflow_redis_aof_write_failed"] == {(): 0}
        with Redis.from_url(server.url, decode_responses=True) as redis:
            version = redis.info("server")["redis_version"]
        assert metrics["orderflow_redis_info"] == {(version,): 1}
    finally:
        assert program.stop() == 0
        server.stop()


async def test_what_redis_does_not_let_us_ask_is_left_out(
    tmp_path: Path, exporter, redis, settings
):
    redis.execute_command(
        *("ACL", "SETUSER", "scraper", "on", ">secret", "~*", "+@all", "-info", "-client")
    )
    port = free_port()
    url = settings.redis_dsn.replace("redis://", "redis://scraper:secret@")
    environment = process_environment(settings) | {"REDIS_URL": url, "EXPORTER_PORT": str(port)}
    program = start_program(tmp_path / "log", "orderflow.exporter", environment=environment)
    try:
        wait_until(lambda: port_is_taken(port), "the exporter")
        metrics = scrape(f"http://127.0.0.1:{port}/metrics")
        assert metrics["orderflow_redis_up"] == {(): 1}
        assert metrics["bullmq_job_count"] == scrape(exporter)["bullmq_job_count"]
        assert "orderflow_redis_info" not in metrics
        assert "orderflow_workers_connected" not in metrics
    finally:
        assert program.stop() == 0


async def test_how_old_the_oldest_order_is_whose_customer_waits(exporter, place, sql):
    age = "orderflow_orders_oldest_unsettled_seconds"
    assert scrape(exporter)[age] == {(): 0}
    await place()
    await sql.execute("UPDATE orders SET created_at = now() - interval '1 h'")
    await place()
    assert 3_600 <= scrape(exporter)[age][()] < 7_200
    await sql.execute("UPDATE orders SET status = 'confirmed', notified_at = now()")
    assert scrape(exporter)[age] == {(): 0}


async def test_what_must_hold_of_all_orders_and_does_not(exporter, place, sql):
    receipt = await place()
    metrics = scrape(exporter)
    assert metrics["orderflow_postgres_up"] == {(): 1}
    violations = metrics["orderflow_invariant_violations"]
    assert {name for (name,) in violations} == set(INVARIANTS)
    assert set(violations.values()) == {0}

    await sql.execute("UPDATE orders SET status = 'confirmed'")
    await sql.execute("INSERT INTO stray_charges VALUES ($1, 'ch_1')", receipt.payment_id)
    await place()
    await sql.execute(
        "UPDATE orders SET created_at = now() - interval '2 h' WHERE status = 'pending'"
    )
    found = {(name,): 0 for name in INVARIANTS} | {
        ("orders_past_their_time",): 1,
        ("stray_charges",): 1,
        ("confirmed_without_payment",): 1,
    }
    # A scrape begins the look, and a later one tells of it.
    wait_until(lambda: scrape(exporter)["orderflow_invariant_violations"] == found, str(found))


async def test_a_schema_that_is_not_there_yet_is_not_without_faults(exporter, sql):
    await sql.execute("ALTER TABLE stray_charges RENAME TO elsewhere")
    metrics = scrape(exporter)
    assert metrics["orderflow_postgres_up"] == {(): 0}
    assert "orderflow_invariant_violations" not in metrics


def test_unknown_is_not_none(tmp_path: Path):
    """While Redis is away there is no count at all, and it comes back with it."""
    redis_port, port = free_port(), free_port()
    program = start_program(
        tmp_path / "exporter.log",
        "orderflow.exporter",
        environment={
            "REDIS_PORT": str(redis_port),
            "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing",
            "EXPORTER_PORT": str(port),
        },
    )
    try:
        wait_until(lambda: port_is_taken(port), "the exporter")
        url = f"http://127.0.0.1:{port}/metrics"
        assert without_build(scrape(url)) == AWAY
        redis = start_redis(tmp_path / "redis", redis_port)
        try:
            assert scrape(url)["orderflow_redis_up"] == {(): 1}
            assert len(scrape(url)["bullmq_job_count"]) == len(QUEUES) * len(STATES)
        finally:
            redis.stop()
        assert without_build(scrape(url)) == AWAY
    finally:
        assert program.stop() == 0


def test_a_taken_port_is_told_by_its_setting(redis_server, tmp_path: Path):
    program = start_program(
        tmp_path / "exporter.log",
        "orderflow.exporter",
        environment={"EXPORTER_PORT": str(redis_server.port)},
    )
    assert program.process.wait(30) == 2
    said = program.log.read_text()
    assert said == (
        f"EXPORTER_PORT: Cannot listen on 127.0.0.1:{redis_server.port}: Address already in use.\n"
    )
