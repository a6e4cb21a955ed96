"""A Redis that Sentinel watches: found, lost, found again, and never the wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs
from tests.integration.failing_over import charges, orders, running
from tests.integration.tls import make_certificates, tls_in_front
from tests.redis_sites import SentinelSite, ask, start_sentinel, start_sentinels

from orderflow.bull.connection import connect_producer, connect_wait, connect_worker
from orderflow.bull.finding import MasterNotFound
from orderflow.doctor import Severity
from orderflow.doctor.redis import examine_redis
from orderflow.redis_servers import Address, RedisServers, read_addresses
from orderflow.sandbox.servers import Server, free_port
from orderflow.settings import Settings

PASSWORD = "hunter2-and-more"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSite]:
    site = start_sentinels(tmp_path_factory.mktemp("sentinels"))
    yield site
    site.stop()


@pytest.fixture
def settings(settings: Settings, site: SentinelSite) -> Settings:
    """Settings that say where the sentinels are, and nothing true of where Redis is."""
    return settings.model_copy(
        update={
            "redis_url": None,
            "redis_port": 1,
            "redis_timeout_ms": 250,
            "redis_sentinels": read_addresses(site.addresses, 26379),
            "redis_sentinel_master": "shop",
        }
    )


@pytest.mark.parametrize("connect", [connect_worker, connect_wait])
async def test_a_replica_is_not_taken_for_the_master(site, tmp_path, connect):
    replica = site.replica()
    behind = start_sentinel(tmp_path / "behind", replica.port)
    servers = RedisServers("redis://", (Address("127.0.0.1", behind.port),), "shop")
    try:
        async with connect(servers, "bull") as client:
            with pytest.raises(RedisConnectionError, match="still call a replica the master"):
                await client.ping()
    finally:
        behind.kill()


async def test_sentinels_are_asked_over_tls_and_with_a_login_of_their_own(
    redis_server: Server, tmp_path: Path
):
    ask(redis_server, "ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    ca, context = make_certificates(tmp_path / "ours", "127.0.0.1")
    async with AsyncExitStack() as stack:
        redis_port = await stack.enter_async_context(tls_in_front(redis_server.port, context))
        sentinel = start_sentinel(tmp_path / "sentinel", redis_port)
        stack.callback(sentinel.kill)
        ask(sentinel, "ACL", "SETUSER", "asker", "on", ">" + PASSWORD[::-1], "+@all")
        ask(sentinel, "ACL", "SETUSER", "default", "off")
        async with tls_in_front(sentinel.port, context) as sentinel_port:
            places = (Address("127.0.0.1", sentinel_port),)
            dsn = f"rediss://shop:{PASSWORD}@nowhere/0?ssl_ca_certs={ca}"
            well = RedisServers(dsn, places, "shop", "asker", PASSWORD[::-1])
            async with connect_producer(well, 2_000, "bull") as client:
                assert await client.ping()
            refused = {
                "REDIS_SENTINEL_PASSWORD": RedisServers(dsn, places, "shop", "asker", PASSWORD),
                "Hostname mismatch": RedisServers(
                    dsn, (Address("localhost", sentinel_port),), "shop", "asker", PASSWORD[::-1]
                ),
                "invalid username-password": RedisServers(
                    dsn.replace(PASSWORD, "wrong"), places, "shop", "asker", PASSWORD[::-1]
                ),
            }
            for said, servers in refused.items():
                async with connect_producer(servers, 2_000, "bull") as client:
                    with pytest.raises(RedisConnectionError, match=said) as error:
                        await client.ping()
                assert PASSWORD not in str(error.value)
                assert PASSWORD[::-1] not in str(error.value)
    ask(redis_server, "ACL", "DELUSER", "shop")


WRONG = {
    "know no Redis of the name 'shoop'": {"redis_sentinel_master": "shoop"},
    "No sentinel can be asked": {"redis_sentinels": (Address("127.0.0.1", free_port()),)},
}


@pytest.mark.parametrize("said", WRONG)
async def test_what_is_wrong_is_said_with_the_setting(settings, said):
    wrong = settings.model_copy(update=WRONG[said])
    (finding,) = await examine_redis(wrong)
    assert finding.severity is Severity.ERROR
    assert said in finding.message
    assert "REDIS_SENTINEL" in finding.fix


async def test_a_redis_is_no_sentinel(site):
    address = Address("127.0.0.1", site.servers[0].port)
    servers = RedisServers("redis://", (address,), "shop")
    async with connect_producer(servers, 2_000, "bull") as client:
        with pytest.raises(MasterNotFound, match=f"{address} of REDIS_SENTINELS is no sentinel"):
            await client.ping()


async def test_it_is_said_once_what_is_wrong(settings):
    servers = settings.model_copy(update={"redis_sentinel_master": "none"}).redis_servers
    with capture_logs() as said:
        async with connect_producer(servers, 2_000, "bull") as client:
            for _ in range(3):
                with pytest.raises(MasterNotFound):
                    await client.ping()
    (line,) = said
    assert "REDIS_SENTINEL_MASTER" in line["fix"]


async def test_the_doctor_says_who_is_the_master_and_how_it_is_watched(settings, site):
    findings = {f.check: f for f in await examine_redis(settings)}
    found = findings["redis-sentinel"]
    assert found.severity is Severity.OK
    assert f"127.0.0.1:{site.master().port}" in found.message


def test_a_password_is_never_shown(settings):
    secret = settings.model_copy(update={"redis_sentinel_password": SecretStr(PASSWORD)})
    assert PASSWORD not in repr(secret) + repr(secret.redis_servers)


#: The last one: it leaves one server of the two.
async def test_nothing_is_lost_or_charged_twice_when_the_master_dies(
    settings, resources, sql, site, tmp_path
):
    before = charges(settings)
    with running(settings, tmp_path, "payment", "order"):
        async with orders(resources, sql) as flow:
            await flow.until(50)
            site.master().kill()
            await flow.until(200)
    assert charges(settings) - before == len(flow.receipts)
