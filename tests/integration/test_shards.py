"""Sharded queues on a real cluster, with the shards of payments and of mails on two masters."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.integration.cli import run_command
from tests.integration.conftest import PlaceOrder
from tests.integration.kept import PERSON, all_keys, found_of_person, live_an_order
from tests.integration.reconciling import run
from tests.integration.working import ADA, until
from tests.redis_sites import ask, start_cluster

from orderflow.bull.states import JobState
from orderflow.checkout import Receipt
from orderflow.contract import JOB_OPTIONS, NewJob, QueueName, payment_job
from orderflow.doctor import Severity, examine
from orderflow.errors import UnknownQueue
from orderflow.exporter.queues import redis_metrics
from orderflow.invariants import count_violations
from orderflow.operations.data import forget_user
from orderflow.operations.health import redis_health
from orderflow.operations.jobs import find_jobs
from orderflow.operations.orphans import find_orphans, remove_orphans
from orderflow.operations.queues import get_queue, list_queues, pause_queue, resume_queue
from orderflow.operations.story import tell_story
from orderflow.operations.workers import list_workers
from orderflow.producer import JobProducer
from orderflow.queue_names import QueueNames
from orderflow.reconcile import Counts
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import Server
from orderflow.settings import Settings

#: There is enough of it.
TEA = [{"sku": "tea-assam", "quantity": 1}]
ORDERS = QueueName.ORDERS.value
SHARDS = {
    QueueName.PAYMENTS: ["payment-processing", "payment-processing-2"],
    QueueName.NOTIFICATIONS: ["notifications", "notifications-2"],
}


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three masters, of which each has a third of the slots, and goes on without the others."""
    site = start_cluster(tmp_path_factory.mktemp("cluster"), replicated=False)
    for server in site.servers:
        ask(server, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    yield site.servers
    site.stop()


def _number_of(names: QueueNames, queue: str) -> int:
    """Return which of the masters has a queue."""
    return int(key_slot(names.key(queue, "wait").encode()) * 3 // 16_384)


def _prefix(base: str, *, apart: bool = True) -> str:
    """Return a prefix by which the two shards of each queue are on the first two masters, or one.

    The queue that has no shards is on the third.
    """
    for number in itertools.count():
        names = QueueNames(f"{{{base}.{number}-*}}", 2)
        of_shards = [[_number_of(names, s) for s in shards] for shards in SHARDS.values()]
        if all(two == [0, int(apart)] for two in of_shards) and _number_of(names, ORDERS) == 2:
            return names.prefix
    raise AssertionError


@pytest.fixture
def settings(settings: Settings, masters: list[Server]) -> Settings:
    changes: dict[str, Any] = {
        "redis_url": f"redis://127.0.0.1:{masters[0].port}",
        "redis_cluster": True,
        "queue_prefix": _prefix(settings.queue_prefix),
        "queue_shards": 2,
    }
    # Read anew, as a program would: what the settings check is checked.
    return Settings(_env_file=None, **(settings.model_dump(exclude_defaults=True) | changes))


@pytest.fixture
def on_masters(masters: list[Server]) -> Iterator[list[Redis]]:
    clients = [Redis(port=node.port, decode_responses=True) for node in masters]
    yield clients
    for client in clients:
        client.close()


@contextmanager
def workers(settings: Settings, folder: Path, *names: str) -> Iterator[list[Program]]:
    environment = process_environment(settings) | {"REDIS_CLUSTER": "true", "QUEUE_SHARDS": "2"}
    programs = [
        start_program(
            folder / f"{number}-{name}.log",
            *("orderflow.worker", name, "--concurrency", "5"),
            environment=environment,
        )
        for number, name in enumerate(names)
    ]
    try:
        for program in programs:
            wait_until(lambda p=program: p.log.read_text().count("worker started") > 0, "a worker")
        yield programs
    finally:
        for program in programs:
            program.process.kill()
            program.process.wait()


def job_of(receipt: Receipt) -> NewJob:
    return payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)


def is_second(resources: Resources, receipt: Receipt) -> bool:
    return resources.queues.names.queue_of(job_of(receipt)).endswith("-2")


async def one_in_each(resources: Resources, place: PlaceOrder) -> list[Receipt]:
    """Place orders until each shard has one, and return these."""
    found: dict[bool, Receipt] = {}
    while len(found) < 2:
        receipt = await place(items=TEA)
        found.setdefault(is_second(resources, receipt), receipt)
    return [found[False], found[True]]


async def test_hundreds_of_orders_end_right_on_both_shards_while_workers_are_drained(
    settings: Settings,
    resources: Resources,
    place: PlaceOrder,
    sql: asyncpg.Connection[asyncpg.Record],
    gateway_server: Any,
    on_masters: list[Redis],
    tmp_path: Path,
):
    queues, names = resources.queues, resources.queues.names

    async def told() -> int:
        query = "SELECT count(*) FROM orders WHERE status = 'confirmed' AND notified_at IS NOT NULL"
        return int(await sql.fetchval(query))

    receipts = [
        r for _ in range(4) for r in await asyncio.gather(*(place(items=TEA) for _ in range(50)))
    ]
    # An old producer knows the first queue alone, whatever the order.
    foreign = [
        {
            "paymentId": 70_000 + n,
            "orderId": 40_000 + n,
            "paymentData": {"method": "card", "amount": 5},
        }
        for n in range(10)
    ]
    options = JOB_OPTIONS.to_bullmq() | {"priority": 1}
    await queues.queue(QueueName.PAYMENTS).addBulk(
        [{"name": "process-payment", "data": data, "opts": options} for data in foreign]
    )
    every = len(receipts) + len(foreign)
    with workers(settings, tmp_path, "payment", "payment", "notification") as programs:
        await until(lambda: _at_least(told, 50))
        assert programs[0].stop() == 0
        await until(lambda: _at_least(told, every))
        fleet = await list_workers(queues=queues, settings=settings)
        on_queues = {worker.queue for worker in fleet.workers}
        assert on_queues == {shard for shards in SHARDS.values() for shard in shards}
        assert [program.stop() for program in programs[1:]] == [0, 0]

    seconds = sum(is_second(resources, receipt) for receipt in receipts)
    assert 0 < seconds < len(receipts)
    ended = {queue.name: queue.completed for queue in await list_queues(queues=queues)}
    assert ended["payment-processing-2"] == seconds
    assert ended["payment-processing"] == len(receipts) - seconds + len(foreign)
    assert ended["notifications"] + ended["notifications-2"] == every
    assert ended["notifications-2"] >= seconds
    assert not any((await count_violations(resources.db, settings, every)).values())
    assert all(gateway_server.charge(receipt.payment_id) for receipt in receipts[:10])
    assert all(gateway_server.charge(data["paymentId"]) for data in foreign)
    for shard, client in zip(SHARDS[QueueName.PAYMENTS], on_masters, strict=False):
        assert client.exists(names.key(shard, "completed"))
    assert await run(resources) == Counts()


async def _at_least(told: Any, count: int) -> bool:
    return bool(await told() >= count)


async def test_the_reconciler_puts_each_job_into_the_shard_of_its_order(
    resources: Resources, place: PlaceOrder
):
    queues = resources.queues
    receipts = await one_in_each(resources, place)
    jobs = [job_of(receipt) for receipt in receipts]
    for job in jobs:
        assert await queues.remove(job)
    assert await queues.states(jobs) == [JobState.MISSING] * 2
    assert (await run(resources)).jobs_added == 2
    assert [(at.queue, at.state) for at in await queues.places(jobs)] == [
        (shard, JobState.LIVE) for shard in SHARDS[QueueName.PAYMENTS]
    ]


async def test_a_job_in_the_first_queue_is_seen_whatever_its_order(
    settings: Settings, resources: Resources, place: PlaceOrder
):
    _, receipt = await one_in_each(resources, place)
    queues, job = resources.queues, job_of(receipt)
    assert await queues.remove(job)
    async with JobProducer(settings.redis_servers, prefix=settings.queue_prefix) as old:
        await old.process_payment(
            str(receipt.payment_id), str(receipt.order_id), "card", receipt.total
        )
    assert [at.queue for at in await queues.places([job])] == [QueueName.PAYMENTS]
    assert (await run(resources)).jobs_added == 0
    story = await tell_story(str(receipt.order_id), db=resources.db, queues=queues)
    assert "process-payment was added to payment-processing" in [e.what for e in story.events]
    await queues.replace(job)
    assert [at.queue for at in await queues.places([job])] == ["payment-processing-2"]
    async with JobProducer(settings.redis_servers, prefix=settings.queue_prefix, shards=2) as new:
        told = await new.order_confirmation(str(receipt.order_id))
    [summary] = await find_jobs(told, queues=queues)
    assert summary.queue == "notifications-2"


async def test_who_is_forgotten_is_named_by_no_shard(
    resources: Resources, sql: asyncpg.Connection[asyncpg.Record], on_masters: list[Redis]
):
    names = resources.queues.names

    def named() -> set[str]:
        kept = [all_keys(c, names.prefix_of(queue)) for c in on_masters for queue in names.all()]
        return found_of_person("".join(kept))

    await live_an_order(resources, sql)
    assert named() >= {"user", "email"}
    await forget_user(PERSON["user"], ADA, db=resources.db, queues=resources.queues)
    assert named() == set()


async def test_a_full_shard_does_not_hold_up_the_other(
    settings: Settings, resources: Resources, place: PlaceOrder
):
    queues = resources.queues
    first, second = await one_in_each(resources, place)
    jobs = [job_of(first), job_of(second)]
    for job in jobs:
        await queues.remove(job)
    filling = [replace(jobs[0], job_id=f"filling-{number}") for number in range(10)]
    await queues.add_all(filling)
    shallow = settings.model_copy(update={"queue_depth_limit": 10})
    async with open_resources(shallow) as full:
        run_now = asyncio.create_task(run(full))
        await until(lambda: _is_live(full, jobs[1]))
        assert not run_now.done(), "it waits for room in the other shard"
        assert await queues.states(jobs) == [JobState.MISSING, JobState.LIVE]
        for job in filling:
            await queues.remove(job)
        assert (await run_now).jobs_added == 2


async def _is_live(resources: Resources, job: NewJob) -> bool:
    return await resources.queues.states([job]) == [JobState.LIVE]


def _told(by: Server, of: Server) -> str:
    """Return what one node says of another."""
    nodes = str(ask(by, "CLUSTER", "NODES")).splitlines()
    return next(line for line in nodes if f":{of.port}@" in line)


async def test_a_master_that_is_away_holds_up_its_own_orders_alone(
    settings: Settings, resources: Resources, place: PlaceOrder, masters: list[Server]
):
    assert resources
    hasty = settings.model_copy(update={"redis_timeout_ms": 300})
    async with open_resources(hasty) as opened:
        first, second = [job_of(receipt) for receipt in await one_in_each(opened, place)]
        masters[1].process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(5):
                assert not await opened.queues.offer(replace(second, job_id="to-the-frozen"))
            # Until then the others wait for it, too.
            wait_until(lambda: ",fail " in _told(masters[0], masters[1]), "its failure")
            assert opened.queues.breakers.is_open
            assert await opened.queues.offer(replace(first, job_id="to-the-other"))
            found = {
                (sample.name, *sample.labels.values()): sample.value
                for metric in await redis_metrics(opened.queues, settings.priorities)
                for sample in metric.samples
            }
            with pytest.raises(RedisError):
                await opened.queues.ping()
        finally:
            masters[1].process.send_signal(signal.SIGCONT)
        assert found["orderflow_redis_up",] == 0
        assert found["bullmq_job_count", "payment-processing", "prioritized"] >= 2
        assert ("bullmq_job_count", "payment-processing-2", "prioritized") not in found
        await until(lambda: opened.queues.offer(replace(second, job_id="after-the-rest")))
        assert not opened.queues.breakers.is_open


async def test_whoever_shows_queues_shows_the_shards(
    settings: Settings,
    resources: Resources,
    place: PlaceOrder,
    sql: asyncpg.Connection[asyncpg.Record],
    masters: list[Server],
    tmp_path: Path,
):
    stores: dict[str, Any] = {"db": resources.db, "queues": resources.queues}
    receipts = await one_in_each(resources, place)
    paused = await pause_queue("payment-processing-2", ADA, **stores)
    assert paused.paused
    assert not (await get_queue("payment-processing", queues=resources.queues)).paused
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in await redis_metrics(resources.queues, settings.priorities)
        for sample in metric.samples
    }
    assert found["orderflow_queue_paused", "payment-processing-2"] == 1
    assert found["bullmq_job_count", "payment-processing-2", "prioritized"] >= 1
    assert found["orderflow_workers_connected", "notifications-2"] == 0
    addresses = {f"127.0.0.1:{node.port}" for node in masters}
    assert {key[1] for key in found if key[0] == "orderflow_redis_memory_used_bytes"} == addresses
    assert {server.address for server in await redis_health(resources.queues)} == addresses
    findings = await examine(settings)
    said = [finding.message for finding in findings if finding.check in {"paused", "workers"}]
    assert "payment-processing-2 is paused: its jobs wait and none is started" in said
    assert sum("no worker is connected" in message for message in said) == 5
    assert not [finding for finding in findings if finding.severity is Severity.ERROR]
    assert not any("on the same master" in finding.message for finding in findings)
    together = settings.model_copy(update={"queue_prefix": _prefix("together", apart=False)})
    same = [f.message for f in await examine(together) if "on the same master" in f.message]
    assert same[0].endswith("payment-processing, payment-processing-2")
    await resume_queue("payment-processing-2", ADA, **stores)
    with pytest.raises(UnknownQueue):
        await get_queue("no-such-queue", queues=resources.queues)

    ids = [receipt.order_id for receipt in receipts]
    await sql.execute("DELETE FROM payments WHERE order_id = ANY($1)", ids)
    await sql.execute("DELETE FROM orders WHERE id = ANY($1)", ids)
    orphans = await find_orphans(**stores)
    assert [orphan.queue for orphan in orphans] == SHARDS[QueueName.PAYMENTS]
    assert await remove_orphans(orphans, ADA, **stores) == 2
    environment = process_environment(settings) | {"REDIS_CLUSTER": "true", "QUEUE_SHARDS": "2"}
    done = await asyncio.to_thread(
        run_command, "reconcile", "--dry-run", folder=tmp_path, environment=environment
    )
    assert done.returncode == 0, done.stderr
    rooms = done.stdout.splitlines()[-1].removeprefix("room for jobs: ").split(", ")
    assert [room.split()[0] for room in rooms] == [s for shards in SHARDS.values() for s in shards]
