"""A Redis Cluster of three masters with a replica each: found, left, and followed where it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs
from tests.integration.failing_over import charges, orders, running
from tests.integration.tls import make_certificates, tls_in_front
from tests.redis_sites import (
    ClusterSite,
    ask,
    free_node_port,
    on_cluster,
    start_cluster,
    start_node,
    wait_for,
)

from orderflow.bull.changes import ChangesListener
from orderflow.bull.connection import connect_producer, connect_wait, connect_worker
from orderflow.bull.finding import MasterNotFound
from orderflow.doctor import Finding, Severity
from orderflow.doctor.redis import examine_redis
from orderflow.redis_servers import RedisServers
from orderflow.sandbox.servers import Server, free_port
from orderflow.setting_types import RedisUrl
from orderflow.settings import Settings

PATIENCE_S = 30
PAYMENTS = "payment-processing"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    site = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield site
    site.stop()


@pytest.fixture
def settings(settings: Settings, site: ClusterSite) -> Settings:
    return on_cluster(settings, site).model_copy(update={"redis_timeout_ms": 250})


@pytest.fixture
def payments(settings: Settings) -> str:
    """A key of the queue of payments, which says where that is."""
    return settings.queue_names.key(PAYMENTS, "wait")


async def test_no_command_is_lost_or_done_twice_while_its_slot_moves(site: ClusterSite):
    servers = RedisServers(site.url, cluster=True)
    key = "{moving}:n"
    ask(site.master_of(key), "SET", key, 0)
    # The slot stays on its way until somebody asked for a key that is not there: Redis 7 says
    # TRYAGAIN if another one is, 6.2 ASK.
    mover = asyncio.create_task(
        asyncio.to_thread(
            site.move_slot,
            key,
            while_half=lambda: wait_for(lambda: site.errors() & {"ASK", "TRYAGAIN"}, "a detour"),
        )
    )
    client = connect_worker(servers, "{moving}")
    script = client.register_script(
        "redis.call('INCR', KEYS[2]) return redis.call('INCR', KEYS[1])"
    )
    async with client, connect_wait(servers, "{moving}") as waiting:
        rounds = 0
        while not mover.done():
            await asyncio.gather(*(client.incr(key) for _ in range(50)))
            # The second key is on neither side yet: while the slot moves, this has to wait.
            second = f"{key}-{rounds}"
            await asyncio.gather(*(script([key, second]) for _ in range(10)))
            assert await client.get(second) == "10"
            rounds += 1
        await mover
        assert await client.get(key) == str(60 * rounds)
        assert "MOVED" in site.errors()
        # What blocks is on a connection of its own, which has to find the new place as well.
        await client.zadd("{moving}:marker", {"0": 0})
        assert (await waiting.bzpopmin(["{moving}:marker"], 1))[1] == "0"


async def test_many_adds_go_where_the_slot_is(site, settings, resources, place):
    key = settings.queue_names.key("notifications", "wait")
    receipts = [await place(items=[{"sku": "tea-assam", "quantity": 1}]) for _ in range(3)]
    assert receipts
    queue = resources.queues.queue("notifications")
    await asyncio.to_thread(site.move_slot, key)
    await queue.addBulk([{"name": "probe", "data": {}} for _ in range(300)])
    assert await resources.queues.depth("notifications") == 300


async def test_changed_orders_are_heard_of_on_every_node(settings, resources):
    listener = ChangesListener(settings.redis_servers, settings.queue_names)
    try:
        await listener.heard(1.0)
        order_id = uuid4()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                resources.queues.changes.tell(order_id)
                if str(order_id) in await listener.heard(0.2):
                    break
    finally:
        await listener.close()


async def test_the_doctor_finds_nothing_wrong_and_says_where_queues_are(settings, site, payments):
    findings = await examine_redis(settings)
    assert not [f for f in findings if f.severity is Severity.ERROR]
    (found,) = [f for f in findings if f.check == "redis-cluster" and PAYMENTS in f.message]
    assert f"127.0.0.1:{site.master_of(payments).port}" in found.message


async def test_a_cluster_that_nobody_told_of_is_named(site, settings):
    plain = RedisServers(f"redis://127.0.0.1:{site.servers[0].port}")
    finding = await only_finding(
        settings.model_copy(update={"redis_url": RedisUrl(plain.dsn), "redis_cluster": False})
    )
    assert "REDIS_CLUSTER=true" in finding.fix
    with capture_logs() as said:
        async with connect_producer(plain, 2_000, "bull") as client:
            for n in range(30):
                await asyncio.gather(client.get(f"key-{n}"), return_exceptions=True)
    (line,) = [line for line in said if line["log_level"] == "error"]
    assert "REDIS_CLUSTER=true" in line["fix"]


async def test_one_redis_is_no_cluster(settings, redis_server: Server):
    one = settings.model_copy(update={"redis_url": RedisUrl(redis_server.url)})
    with capture_logs() as said:
        async with connect_producer(one.redis_servers, 2_000, "{bull}") as client:
            for _ in range(3):
                with pytest.raises(MasterNotFound, match="no node of a cluster"):
                    await client.ping()
    assert len(said) == 1
    finding = await only_finding(one)
    assert "REDIS_CLUSTER is true" in finding.message


async def test_a_cluster_that_is_away_is_said_so(settings):
    url = f"redis://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    finding = await only_finding(settings.model_copy(update={"redis_url": RedisUrl(url)}))
    assert "No node of the Redis Cluster can be asked" in finding.message


async def test_certificates_are_held_against_the_found_address(tmp_path: Path):
    ca, context = make_certificates(tmp_path / "ours", "127.0.0.1")
    other_ca, _ = make_certificates(tmp_path / "other", "127.0.0.1")
    node_port = free_node_port()
    async with tls_in_front(node_port, context) as port:
        announced = {"cluster-announce-ip": "127.0.0.1", "cluster-announce-port": str(port)}
        node = start_node(tmp_path / "node", node_port, announced)
        try:
            ask(node, "CLUSTER", "ADDSLOTS", *range(16_384))
            wait_for(lambda: "cluster_state:ok" in ask(node, "CLUSTER", "INFO"), "its slots")
            well = RedisServers(f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}", cluster=True)
            async with connect_producer(well, 2_000, "{bull}") as client:
                assert await client.set("{bull}:a", "1")
            ill = RedisServers(f"rediss://127.0.0.1:{port}?ssl_ca_certs={other_ca}", cluster=True)
            async with connect_producer(ill, 2_000, "{bull}") as client:
                with pytest.raises(RedisConnectionError, match="certificate signature failure"):
                    await client.ping()
            # The node is asked under a name that fits, and says an address that does not.
            ask(node, "CONFIG", "SET", "cluster-announce-ip", "127.0.0.2")
            wait_for(lambda: ask(node, "CLUSTER", "SLOTS")[0][2][0] == "127.0.0.2", "its address")
            async with connect_producer(well, 2_000, "{bull}") as client:
                with pytest.raises(RedisConnectionError, match=r"Connect call failed|mismatch"):
                    await client.ping()
        finally:
            node.kill()


async def test_nothing_is_lost_or_charged_twice_whatever_happens_to_the_payments_master(
    settings, resources, sql, site, payments, tmp_path
):
    before = charges(settings)
    with running(settings, tmp_path, "payment", "order"):
        async with orders(resources, sql) as flow:
            await flow.until(50)
            replica = site.replica_of(site.master_of(payments))
            ask(replica, "CLUSTER", "FAILOVER")
            await flow.until(100)
            await asyncio.to_thread(site.move_slot, payments)
            await flow.until(100)
            site.master_of(payments).kill()
            await flow.until(200)
    assert charges(settings) - before == len(flow.receipts)


async def only_finding(settings: Settings) -> Finding:
    (finding,) = await examine_redis(settings)
    assert finding.severity is Severity.ERROR
    return finding
