"""A job that cannot be right fails alone, and keeps what it was for a person to see."""

from __future__ import annotations

import json

import pytest
from tests.conftest import wait_until

#: What a hand or a broken service may have left in Redis, field by field of a job's hash.
BROKEN = {
    "data is no JSON": {"data": "{broken"},
    "data is empty": {"data": ""},
    "data is text": {"data": '"hello"'},
    "data is a number": {"data": "7"},
    "data is null": {"data": "null"},
    "data is a list": {"data": "[1]"},
    "options are no JSON": {"opts": "{broken"},
    "options are a list": {"opts": "[]"},
    "options are null": {"opts": "null"},
    "attempts are text": {"opts": '{"attempts": "three"}'},
    "attempts are null": {"opts": '{"attempts": null}'},
    "the backoff is text": {"opts": '{"attempts": 3, "backoff": "soon"}'},
    "the backoff is negative": {
        "opts": '{"attempts": 3, "backoff": {"type": "fixed", "delay": -5}}'
    },
    "the backoff is text within": {
        "opts": '{"attempts": 3, "backoff": {"type": "exponential", "delay": "2000"}}'
    },
    "the stack trace limit is text": {"opts": '{"attempts": 1, "stackTraceLimit": "few"}'},
    "keepLogs is text": {"opts": '{"attempts": 1, "kl": "few"}'},
    "deduplication is text": {"opts": '{"attempts": 1, "de": "x"}'},
    "two rules for its parent": {"opts": '{"attempts": 1, "fpof": true, "idof": true}'},
    "the priority is text": {"priority": "high"},
    "the timestamp is text": {"timestamp": "today"},
    "the stack trace is no JSON": {"stacktrace": "{broken"},
    "the progress is no JSON": {"progress": "{broken"},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
async def test_a_broken_job_fails_alone_and_keeps_its_payload(
    node6, start_worker, keys, redis, settings, changes
):
    # A name that nobody knows, so that what is broken is met on the way to failing as well.
    node6.ask("pause", queue="probe")
    broken = node6.add("probe", "unknown", {"kept": True}, {"attempts": 3, "backoff": 100})
    key = f"{settings.queue_prefix}:probe:{broken}"
    redis.hset(key, mapping=changes)
    good = [node6.add("probe", "probe", {}, {"attempts": 1}) for _ in range(3)]
    worker = start_worker("probe")
    node6.ask("resume", queue="probe")
    keys("probe").wait_for("completed", len(good), 5)
    wait_until(lambda: redis.zscore(f"{settings.queue_prefix}:probe:failed", broken), broken, 10)
    kept = redis.hgetall(key)
    assert kept["data"] == changes.get("data", json.dumps({"kept": True}, separators=(",", ":")))
    assert kept["failedReason"]
    assert worker.process.poll() is None
    node6.add("probe", "probe", {}, {"attempts": 1})
    keys("probe").wait_for("completed", len(good) + 1, 5)


@pytest.mark.parametrize(
    "data", [{"blob": "x" * 5_000_000}, {"deep": "[" * 900 + "]" * 900}, {"n": 2**53 + 1}]
)
async def test_a_strange_payload_is_carried(node6, start_worker, keys, data):
    start_worker("probe")
    node6.add("probe", "probe", data, {"attempts": 1})
    keys("probe").wait_for("completed", 1)


async def test_a_payload_nested_a_thousand_deep_fails_alone(
    node6, start_worker, keys, redis, settings
):
    node6.ask("pause", queue="probe")
    deep = node6.add("probe", "probe", {}, {"attempts": 1})
    nested = '{"key":' * 100_000 + "1" + "}" * 100_000
    redis.hset(f"{settings.queue_prefix}:probe:{deep}", "data", nested)
    node6.add("probe", "probe", {}, {"attempts": 1})
    start_worker("probe")
    node6.ask("resume", queue="probe")
    keys("probe").wait_for("completed", 1, 5)
    keys("probe").wait_for("failed", 1, 10)


async def test_a_job_whose_hash_is_gone_blocks_nothing(node6, start_worker, keys, redis, settings):
    node6.ask("pause", queue="probe")
    gone = node6.add("probe", "probe", {}, {"attempts": 1})
    redis.delete(f"{settings.queue_prefix}:probe:{gone}")
    node6.add("probe", "probe", {}, {"attempts": 1})
    start_worker("probe")
    node6.ask("resume", queue="probe")
    keys("probe").wait_for("completed", 1, 5)
    wait_until(lambda: keys("probe").count("active") == 0, "the end of what is gone", 10)


@pytest.mark.parametrize("name", ["", "a" * 10_000, "ünïcode 🦜", "new\nline", "0", "__proto__"])
async def test_any_name_is_told_back_when_nobody_knows_it(node6, start_worker, keys, name):
    start_worker("probe")
    job_id = node6.add("probe", name, {}, {"attempts": 3})
    keys("probe").wait_for("failed", 1, 5)
    assert f"no job named '{name}'" in node6.job("probe", job_id)["failedReason"]
