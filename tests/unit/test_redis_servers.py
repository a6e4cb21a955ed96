"""Where Redis is, as the settings say it: read, refused in one line, and never shown."""

from __future__ import annotations

import pytest

from orderflow.errors import InvalidSettings
from orderflow.redis_servers import Address, RedisServers
from orderflow.settings import load_settings

CLUSTER = {"redis_cluster": "true", "queue_prefix": "{bull-*}"}
SENTINELS = {"redis_sentinels": "a", "redis_sentinel_master": "shop"}


def servers(**given: str) -> RedisServers:
    return load_settings(_env_file=None, **given).redis_servers


def test_one_redis_is_its_url():
    one = servers(redis_url="rediss://u:p@h:1/3?ssl_ca_certs=/a/4")
    assert (one.dsn, one.first_dsn, one.database) == (one.dsn, one.dsn, 3)
    assert not one.cluster
    assert not one.sentinels


def test_sentinels_are_hosts_with_their_usual_port():
    found = servers(redis_sentinels="a, b:1,[::1]", redis_sentinel_master="shop")
    assert found.sentinels == (Address("a", 26379), Address("b", 1), Address("::1", 26379))
    assert [str(place) for place in found.sentinels] == ["a:26379", "b:1", "[::1]:26379"]


def test_a_cluster_is_asked_at_each_host_of_its_url():
    found = servers(redis_url="redis://u:p%40@a:7000,b,[::1]:7001?ssl_x=1,2", **CLUSTER)
    assert found.nodes == (Address("a", 7000), Address("b", 6379), Address("::1", 7001))
    assert found.first_dsn == "redis://u:p%40@a:7000?ssl_x=1,2"


REFUSED = [
    (SENTINELS | CLUSTER, "REDIS_SENTINELS and REDIS_CLUSTER exclude each other: set one"),
    ({"redis_sentinels": "a"}, "REDIS_SENTINELS and REDIS_SENTINEL_MASTER must be set together"),
    ({"redis_sentinel_master": "a"}, "REDIS_SENTINELS and REDIS_SENTINEL_MASTER must be set"),
    (SENTINELS | {"redis_sentinels": "a b"}, "REDIS_SENTINELS: must be host:port"),
    (SENTINELS | {"redis_sentinels": "a:99999"}, "REDIS_SENTINELS: must be host:port"),
    (SENTINELS | {"redis_sentinel_username": "u"}, "REDIS_SENTINEL_USERNAME needs a REDIS_SENT"),
    (SENTINELS | {"redis_url": "unix:///a"}, "REDIS_URL must be redis:// or rediss://"),
    (CLUSTER | {"redis_url": "unix:///a"}, "REDIS_URL must be redis:// or rediss://"),
    (CLUSTER | {"redis_url": "redis://a,b:99999"}, "REDIS_URL must be redis:// or rediss://"),
    (CLUSTER | {"redis_db": "1"}, "REDIS_DB, or the number in REDIS_URL, must be 0"),
    (CLUSTER | {"redis_url": "redis://a,b/1"}, "REDIS_DB, or the number in REDIS_URL, must be 0"),
    (CLUSTER | {"redis_url": "redis://a?db=1"}, "REDIS_DB, or the number in REDIS_URL, must be 0"),
    ({"redis_url": "redis://a,b"}, "REDIS_URL may have several hosts only with REDIS_CLUSTER=true"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_does_not_fit_together_is_refused_by_its_name(given, said):
    with pytest.raises(InvalidSettings) as error:
        servers(**given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_passwords_do_not_show():
    found = servers(redis_url="redis://:hunter2@h", redis_sentinel_password="hunter2", **SENTINELS)
    assert found.sentinel_password == "hunter2"
    assert "hunter2" not in repr(found)
