"""A `*` in QUEUE_PREFIX: each queue under a prefix of its own, which Node names in full."""

from __future__ import annotations

import asyncio
import json
import subprocess
from uuid import uuid4

import pytest
from redis import Redis
from tests.conftest import wait_until
from tests.interop.bridge import Bridge, Node
from tests.interop.conftest import NODE_OPTIONS, Keys, foreign_data, payment_data

from orderflow.bull.changes import ChangesListener
from orderflow.contract import QueueName, order_confirmation_job
from orderflow.doctor import examine
from orderflow.exporter.queues import redis_metrics
from orderflow.operations.queues import list_queues
from orderflow.operations.workers import list_workers
from orderflow.queue_names import QueueNames
from orderflow.resources import Resources
from orderflow.settings import Settings

PAYMENTS, NOTIFICATIONS, ORDERS = map(str, QueueName)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"queue_prefix": f"{{{settings.queue_prefix}-*}}"})


@pytest.fixture
def node_on(bridges: dict[str, Bridge], settings: Settings):
    """Node as a service that was told the prefix of one queue."""
    yield lambda queue: Node(bridges["bullmq6"], settings.queue_names.prefix_of(queue))
    bridges["bullmq6"].send("reset").result(30)


async def test_node_and_we_share_queues_that_have_prefixes_of_their_own(
    settings: Settings,
    resources: Resources,
    redis: Redis,
    node_on,
    start_worker,
    place,
    gateway_server,
):
    names = settings.queue_names
    payments, told = (Keys(redis, names.prefix_of(q), q) for q in (PAYMENTS, NOTIFICATIONS))
    start_worker("payment")
    node_on(NOTIFICATIONS).ask("startWorker", queue=NOTIFICATIONS)

    receipt, foreign = await place(), foreign_data()
    for data in (payment_data(receipt), foreign):
        options = NODE_OPTIONS | {"priority": 1}
        node_on(PAYMENTS).ask(
            "add", queue=PAYMENTS, name="process-payment", data=data, opts=options
        )
    payments.wait_for("completed", 3)
    told.wait_for("completed", 2)
    assert all(gateway_server.charge(key) for key in (receipt.payment_id, foreign["paymentId"]))
    by_node = {
        ran["data"]["orderId"] for ran in node_on(NOTIFICATIONS).ask("ran", queue=NOTIFICATIONS)
    }
    assert by_node == {str(receipt.order_id), str(foreign["orderId"])}

    queues = {queue.name: queue for queue in await list_queues(queues=resources.queues)}
    assert set(queues) == {PAYMENTS, NOTIFICATIONS, ORDERS}
    assert (queues[PAYMENTS].completed, queues[PAYMENTS].workers) == (3, 1)
    fleet = await list_workers(queues=resources.queues, settings=settings)
    languages = {worker.queue: worker.language for worker in fleet.workers}
    # Before Redis 7.2 a connection of Node does not say what it is from.
    assert languages[PAYMENTS] == "python"
    assert languages[NOTIFICATIONS] in {"node", "unknown"}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in await redis_metrics(resources.queues, settings.priorities)
        for sample in metric.samples
    }
    assert found["bullmq_job_count", PAYMENTS, "completed"] == 3
    assert found["orderflow_workers_connected", NOTIFICATIONS] == 1
    said = [finding.message for finding in await examine(settings) if finding.check == "prefix"]
    assert said == [f"Under '{settings.queue_prefix}' are no queues but those of the contract"]
    start = settings.queue_prefix.partition("*")[0]
    tags = {key.partition("}")[0].removeprefix(start) for key in redis.scan_iter(f"{start}*")}
    assert tags == {PAYMENTS, NOTIFICATIONS}


def test_node_reckons_the_same_shard(node_program: str):
    """As docs/sharding.md tells producers in Node to; `crc32` is in Node since 20.15."""
    reckon = """
        const { crc32 } = require('node:zlib');
        console.log(JSON.stringify(process.argv.slice(1).map(id => (crc32(String(id)) % 3) + 1)));
    """
    ids = [str(uuid4()) for _ in range(20)] + ["4711", "ä-7", "order 1"]
    said = subprocess.check_output([node_program, "-e", reckon, *ids], text=True)
    names = QueueNames("{bull-*}", 3)
    queues = [names.queue_of(order_confirmation_job(order_id, None)) for order_id in ids]
    suffixes = ["" if number == 1 else f"-{number}" for number in json.loads(said)]
    assert queues == [f"{NOTIFICATIONS}{suffix}" for suffix in suffixes]


async def test_changed_orders_are_told_of_under_the_shared_prefix(
    settings: Settings, resources: Resources, redis: Redis
):
    listener = ChangesListener(settings.redis_servers, settings.queue_names)
    await listener.heard(0)
    channel = settings.queue_prefix.replace("*", "shared") + ":orders-changed"
    wait_until(lambda: redis.pubsub_numsub(channel)[0][1] == 1, "the listener")
    order_id = uuid4()
    resources.queues.changes.tell(order_id)
    async with asyncio.timeout(20):
        while str(order_id) not in await listener.heard(1):
            pass
    await listener.close()
