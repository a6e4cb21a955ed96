"""Jobs that we add: the same keys in Redis as Node would have written, and run by Node workers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from redis import Redis
from tests.conftest import wait_until
from tests.interop.conftest import NODE_OPTIONS

from orderflow.bull.queues import JobQueues
from orderflow.contract import order_confirmation_job, payment_failed_job, payment_job

#: Both sides are told this time, so that scores and delays can be compared.
WHEN = 1_800_000_000_000

OPTIONS = {
    "the contract's": {"priority": 1},
    "no priority": {},
    "lowest priority": {"priority": 2_097_151},
    "delay": {"delay": 5_000},
    "delay and priority": {"delay": 5_000, "priority": 10},
    "lifo": {"lifo": True},
    "a job id": {"jobId": "payment-7", "priority": 1},
    "an id of three parts": {"jobId": "repeat:of:7"},
    "deduplication": {"deduplication": {"id": "of-order-7"}},
    "deduplication ttl": {"deduplication": {"id": "of-order-7", "ttl": 60_000}},
    "deduplication extend": {
        "deduplication": {"id": "of-7", "ttl": 60_000, "extend": True, "replace": True},
        "delay": 1_000,
    },
    "keepLogs": {"keepLogs": 10},
    "stackTraceLimit": {"stackTraceLimit": 5},
    "sizeLimit": {"sizeLimit": 5_000},
    "fail parent": {"failParentOnFailure": True},
    "ignore dependency": {"ignoreDependencyOnFailure": True},
    "continue parent": {"continueParentOnFailure": True},
    "remove dependency": {"removeDependencyOnFailure": True},
    "a plain backoff": {"backoff": 500},
    "jitter": {"backoff": {"type": "exponential", "delay": 500, "jitter": 0.5}},
    "no attempts given": {"attempts": 0},
    "remove at once": {"removeOnComplete": True, "removeOnFail": 10},
    "telemetry": {
        "telemetry": {
            "metadata": '{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
        }
    },
    "telemetry left out": {"telemetry": {"omitContext": True}},
}

DATA = {
    "ours": {
        "paymentId": "7",
        "orderId": "8",
        "paymentData": {"method": "card", "amount": "68.00"},
    },
    "letters": {"name": "Zoë 🦜 \u2028 </script>", "quote": '"\\', "nothing": None},
    "numbers": {"n": 1, "x": 19.99, "small": 1e-7, "big": 2**53 - 1, "e21": 1e21, "whole": 2.0},
    "empty": {},
    "a list": [1, [2, {}]],
}


def contents(redis: Redis, prefix: str, queue: str) -> dict[str, Any]:
    """Return all that a queue has in Redis, by key, the events without their times."""
    base = f"{prefix}:{queue}:"
    found: dict[str, Any] = {}
    for key in redis.scan_iter(match=f"{base}*"):
        name = key.removeprefix(base)
        match redis.type(key):
            case "hash":
                found[name] = redis.hgetall(key)
            case "list":
                found[name] = redis.lrange(key, 0, -1)
            case "zset":
                found[name] = redis.zrange(key, 0, -1, withscores=True)
            case "stream":
                found[name] = [fields for _id, fields in redis.xrange(key)]
            case "set":
                found[name] = redis.smembers(key)
            case _:
                found[name] = redis.get(key)
    return found


def leaves(found: dict[str, Any]) -> dict[str, Any]:
    """Return each field of each key by its path, and each job's options one by one.

    Left out is `meta`, which says what program opened the queue, and nothing of a job. The order
    of the options in their JSON is Redis' own, from the way its Lua keeps tables.
    """
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if name == "meta":
            continue
        if not isinstance(value, dict):
            flat[name] = value
            continue
        for field, text in value.items():
            if field == "opts":
                flat |= {f"{name}.opts.{option}": v for option, v in json.loads(text).items()}
            else:
                flat[f"{name}.{field}"] = text
    return flat


async def add_to_both(
    node: Any, queues: JobQueues, redis: Redis, data: Any, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add the same job to one empty queue from either side; return what Redis then had."""
    name, options = "process-payment", {"timestamp": WHEN} | options
    prefix = node.prefix
    node.add("same", name, data, NODE_OPTIONS | options)
    by_node = contents(redis, prefix, "same")
    for key in redis.scan_iter(match=f"{prefix}:same:*"):
        redis.delete(key)
    await queues.queue("same").add(name, data, options)
    return by_node, contents(redis, prefix, "same")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_the_same_job_leaves_the_same_keys(node6, resources, redis, options):
    by_node, by_python = await add_to_both(node6, resources.queues, redis, DATA["ours"], options)
    assert leaves(by_python) == leaves(by_node)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_the_same_job_leaves_the_same_keys_as_with_5x(node5, resources, redis, options):
    by_node, by_python = await add_to_both(node5, resources.queues, redis, DATA["ours"], options)
    assert leaves(by_python) == leaves(by_node)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
async def test_data_is_read_as_the_same_by_node(node6, resources, data):
    by_node = node6.add("same", "process-payment", data)
    by_python = await resources.queues.queue("same").add("process-payment", data)
    assert node6.job("same", by_python.id)["data"] == node6.job("same", by_node)["data"]


async def test_our_own_text_of_data_is_nodes(node6, resources, redis):
    """What our payloads hold: ids, amounts as text, names in any script."""
    data = DATA["ours"] | {"note": "Zoë 🦜"}
    by_node, by_python = await add_to_both(node6, resources.queues, redis, data, {})
    assert by_python["1"]["data"] == by_node["1"]["data"]


OUR_JOBS = [
    payment_job("7", "8", "card", Decimal("68.00")),
    order_confirmation_job("8", "user-1"),
    payment_failed_job("8", "user-1", "card_declined"),
]


@pytest.mark.parametrize("job", OUR_JOBS, ids=lambda job: job.name.value)
async def test_our_own_jobs_are_those_of_the_node_design(
    node, resources, redis, settings, job, monkeypatch
):
    monkeypatch.setattr("time.time", lambda: WHEN / 1000)
    await resources.queues.add(job)
    ours = contents(redis, settings.queue_prefix, job.queue)
    monkeypatch.undo()
    for key in redis.scan_iter(match=f"{settings.queue_prefix}:{job.queue}:*"):
        redis.delete(key)
    priority = {"high": 1, "medium": 10, "low": 20}[job.priority]
    options = NODE_OPTIONS | {"jobId": job.job_id, "priority": priority, "timestamp": WHEN}
    node.add(job.queue, job.name.value, job.data, options)
    theirs = contents(redis, settings.queue_prefix, job.queue)
    # Node was told the time as an option, so it is kept as one.
    expected = leaves(theirs)
    del expected[f"{job.job_id}.opts.timestamp"]
    assert leaves(ours) == expected


async def test_jobs_added_in_bulk_leave_the_same_keys(node6, resources, redis, settings):
    jobs = [
        {"name": "probe", "data": {"n": n}, "opts": {"priority": n % 3, "timestamp": WHEN}}
        for n in range(20)
    ]
    with_defaults = [job | {"opts": NODE_OPTIONS | job["opts"]} for job in jobs]
    node6.ask("addBulk", queue="same", jobs=with_defaults)
    by_node = contents(redis, settings.queue_prefix, "same")
    for key in redis.scan_iter(match=f"{settings.queue_prefix}:same:*"):
        redis.delete(key)
    await resources.queues.queue("same").addBulk(jobs)
    by_python = contents(redis, settings.queue_prefix, "same")
    assert leaves(by_python) == leaves(by_node)


async def test_the_version_of_the_events_limit_is_kept_for_node(node6, resources, redis, settings):
    """A queue that only we opened has what Node writes as it opens one."""
    node6.ask("counts", queue="by-node")
    await resources.queues.queue("by-python").add("probe", {})
    theirs = redis.hgetall(f"{settings.queue_prefix}:by-node:meta")
    ours = redis.hgetall(f"{settings.queue_prefix}:by-python:meta")
    assert ours.get("opts.maxLenEvents") == theirs["opts.maxLenEvents"]


async def test_node_runs_what_we_add(node, resources, keys):
    for job in OUR_JOBS:
        await resources.queues.add(job)
        node.ask("startWorker", queue=job.queue)
        wait_until(lambda job=job: "finishedOn" in keys(job.queue).hash(job.job_id), job.job_id)
        [ran] = node.ask("ran", queue=job.queue)
        assert ran == {
            "id": job.job_id,
            "name": job.name.value,
            "data": job.data,
            "attempt": 1,
        }
        node.ask("stopWorker", queue=job.queue)


async def test_node_retries_what_we_add_as_the_contract_says(node, resources, keys):
    data = {"failTimes": 1, "fail": "the gateway is down"}
    await resources.queues.queue("probe").add("probe", data, {"backoff": 300})
    node.ask("startWorker", queue="probe")
    keys("probe").wait_for("completed", 1)
    first, second = keys("probe").events("active")
    assert 300 <= second["at_ms"] - first["at_ms"] < 400
