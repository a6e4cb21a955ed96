"""What queues and keys are called, and which shard an order's jobs go to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from orderflow.contract import QueueName, order_confirmation_job, payment_job, refund_job
from orderflow.errors import InvalidSettings
from orderflow.queue_names import QueueNames, shares
from orderflow.settings import Settings, load_settings

CLUSTER = {"REDIS_CLUSTER": "true", "REDIS_URL": "redis://127.0.0.1:7000"}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("prefix", "key", "channel"),
    [
        ("bull", "bull:notifications:wait", "bull:orders-changed"),
        ("{bull}", "{bull}:notifications:wait", "{bull}:orders-changed"),
        (
            "{bull-*}",
            "{bull-notifications}:notifications:wait",
            "{bull-shared}:orders-changed",
        ),
        ("*", "notifications:notifications:wait", "shared:orders-changed"),
    ],
)
def test_a_star_stands_for_the_queue(prefix: str, key: str, channel: str):
    names = QueueNames(prefix)
    assert names.key("notifications", "wait") == key
    assert names.orders_changed == channel
    assert names.outage("gateway").startswith(names.shared_prefix + ":")


def test_the_shard_of_an_order_never_changes():
    """Producers elsewhere reckon it themselves, as docs/sharding.md tells them to."""
    ids = ("4711", "order-1", "018f3c2a-0000-7000-8000-000000000001", "7", "é")
    jobs = [order_confirmation_job(order_id, None) for order_id in ids]
    shards = [
        [QueueNames("{b-*}", count).queue_of(job).removeprefix("notifications") for job in jobs]
        for count in (1, 2, 3)
    ]
    assert shards == [[""] * 5, ["-2", "-2", "", "", ""], ["-2", "-2", "-3", "", "-3"]]


def test_the_jobs_of_an_order_go_to_shards_of_one_number_and_refunds_to_the_one_queue():
    names, order_id = QueueNames("{b-*}", 2), "4711"
    assert names.queue_of(payment_job("1", order_id, "card", Decimal(1))) == "payment-processing-2"
    assert names.queue_of(order_confirmation_job(order_id, None)) == "notifications-2"
    assert names.queue_of(refund_job(uuid4(), order_id)) == "order-processing"
    assert names.all() == [
        *("payment-processing", "payment-processing-2", "notifications", "notifications-2"),
        "order-processing",
    ]


def test_orders_are_spread_evenly():
    names, job = QueueNames("{b-*}", 4), order_confirmation_job("", None)
    jobs = (replace(job, data={"orderId": str(uuid4())}) for _ in range(4_000))
    assert min(Counter(map(names.queue_of, jobs)).values()) > 800


def test_shares_are_as_even_as_whole_numbers_go():
    assert (shares(10, 1), shares(10, 4), shares(2, 2)) == ([10], [3, 3, 2, 2], [1, 1])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (CLUSTER, "QUEUE_PREFIX must have a part in braces with REDIS_CLUSTER, as {bull-*}"),
        (CLUSTER | {"QUEUE_PREFIX": "}b{ull-*"}, "QUEUE_PREFIX must have a part in braces"),
        (CLUSTER | {"QUEUE_PREFIX": "{}bull-*"}, "QUEUE_PREFIX must have a part in braces"),
        (
            {"QUEUE_SHARDS": "2", "QUEUE_PREFIX": "{bull-*}"},
            "QUEUE_SHARDS may be more than 1 only with REDIS_CLUSTER=true",
        ),
        (
            CLUSTER | {"QUEUE_SHARDS": "2", "QUEUE_PREFIX": "{bull}-*"},
            "QUEUE_PREFIX must have a * in its braces with QUEUE_SHARDS, as {bull-*}",
        ),
        (
            CLUSTER
            | {"QUEUE_SHARDS": "3", "QUEUE_PREFIX": "{bull-*}"}
            | {"RATE_LIMITS": '{"notifications": {"max": 2, "duration": 1000}}'},
            "RATE_LIMITS: notifications: max must be QUEUE_SHARDS or more",
        ),
    ],
)
def test_names_that_would_not_work_are_refused(monkeypatch, changes, rule):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    assert rule in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_rate_limit_is_divided_among_the_shards():
    limits = {
        "payment-processing": {"max": 5, "duration": 1_000},
        "invoices": {"max": 1, "duration": 10},
    }
    sharded = Settings(
        _env_file=None,
        redis_url="redis://127.0.0.1:7000",
        redis_cluster=True,
        queue_prefix="{bull-*}",
        queue_shards=2,
        rate_limits=limits,
    )
    found = {
        queue: sharded.rate_limit_of(queue) for queue in (*sharded.queue_names.all(), "invoices")
    }
    assert {queue: limit.max for queue, limit in found.items() if limit} == {
        "payment-processing": 3,
        "payment-processing-2": 2,
        "invoices": 1,
    }
    assert Settings(_env_file=None, rate_limits=limits).rate_limit_of(QueueName.PAYMENTS).max == 5


def test_a_worker_with_fewer_slots_than_shards_is_told_so(monkeypatch):
    import typer

    from orderflow.worker import run

    for name, value in (CLUSTER | {"QUEUE_SHARDS": "4", "QUEUE_PREFIX": "{bull-*}"}).items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command()(run)
    done = CliRunner().invoke(app, ["payment", "--concurrency", "3"])
    assert done.exit_code == 2
    assert done.output == "Each shard needs a slot: --concurrency 3 is less than QUEUE_SHARDS 4.\n"
