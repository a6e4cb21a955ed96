"""Redis as several servers, on loopback: a master with sentinels, and a cluster of six nodes."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from orderflow.sandbox.servers import (
    Server,
    free_port,
    port_is_taken,
    redis_of_wheel,
    start_redis,
    wait_until_it_answers,
)
from orderflow.setting_types import RedisUrl
from orderflow.settings import Settings

PATIENCE_S = 30
_SLOTS = 16_384
_MASTERS = 3
#: So far above a node's port is the one that the nodes use among themselves.
_BUS = 10_000


def wait_for(answers: Callable[[], Any], what: str) -> Any:
    """Return what `answers` gives once it is true; an error of Redis is no answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if answer := answers():
                return answer
        except RedisError:
            pass
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.05)


def ask(server: Server, *command: Any) -> Any:
    """Send one command and return its reply."""
    with Redis(port=server.port, decode_responses=True, socket_timeout=5) as client:
        return client.execute_command(*command)


def is_master(server: Server) -> bool:
    return bool(ask(server, "ROLE")[0] == "master")


@dataclass
class Site:
    """Several servers that are one Redis."""

    servers: list[Server]

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


@dataclass
class SentinelSite(Site):
    """Two servers, of which one is the master, and three sentinels that call it `shop`."""

    sentinels: list[Server]
    _folder: Path

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    def master(self) -> Server:
        """Return the server that the sentinels call the master, once all agree and it is one."""

        def agreed() -> Server | None:
            said = {self._said(sentinel) for sentinel in self.sentinels}
            named = [server for server in self.servers if {server.port} == said]
            return named[0] if named and is_master(named[0]) else None

        found: Server = wait_for(agreed, "one master")
        return found

    def replica(self) -> Server:
        master = self.master()
        return next(server for server in self.servers if server is not master)

    def restart(self, server: Server) -> None:
        """Start a server that died again, and wait until it copies the master."""
        self.servers.remove(server)
        again = _start(self._folder / f"redis-{server.port}", server.port)
        self.servers.append(again)
        wait_for(lambda: _link_is_up(again), "the replica")

    def stop(self) -> None:
        super().stop()
        for sentinel in self.sentinels:
            sentinel.kill()

    def _said(self, sentinel: Server) -> int:
        return int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")[1])


def start_sentinels(folder: Path) -> SentinelSite:
    """Start a master, its replica, and three sentinels; return when a failover would work."""
    site = SentinelSite([], [], folder)
    with _or_stop(site):
        site.servers += (_start(folder / name, free_port()) for name in ("first", "second"))
        master, replica = site.servers
        ask(replica, "REPLICAOF", "127.0.0.1", master.port)
        site.sentinels += (start_sentinel(folder / f"sentinel-{n}", master.port) for n in range(3))
        wait_for(lambda: _link_is_up(replica), "the replica")
        for sentinel in site.sentinels:
            wait_for(lambda: _knows_all(sentinel), "the sentinels")  # noqa: B023
    return site


def start_sentinel(folder: Path, master_port: int) -> Server:
    """Start a sentinel that calls the Redis on this port `shop`. One alone changes nothing."""
    folder.mkdir(parents=True)
    # A sentinel writes what it learns into its file.
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor shop 127.0.0.1 {master_port} 2\n"
        "sentinel down-after-milliseconds shop 1000\n"
        "sentinel failover-timeout shop 4000\n"
    )
    port, log = free_port(), folder / "sentinel.log"
    process = subprocess.Popen(
        [
            *(redis_of_wheel(), str(file), "--sentinel", "--bind", "127.0.0.1"),
            *("--port", str(port), "--dir", str(folder), "--logfile", str(log)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = Server("sentinel", f"redis://127.0.0.1:{port}", port, process, signal.SIGTERM)
    wait_until_it_answers(server, lambda: port_is_taken(port), log)
    return server


def _knows_all(sentinel: Server) -> bool:
    found = ask(sentinel, "SENTINEL", "MASTER", "shop")
    return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == 1


def _link_is_up(replica: Server) -> bool:
    with Redis(port=replica.port, decode_responses=True) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


@dataclass
class ClusterSite(Site):
    """Three masters with a replica each."""

    folder: Path

    @property
    def url(self) -> str:
        """The cluster, by two of its nodes."""
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def errors(self) -> set[str]:
        """Return the kinds of errors that any node has answered with."""
        stats = [ask(server, "INFO", "errorstats") for server in self.living()]
        return set(re.findall(r"errorstat_(\w+)", str(stats)))

    def living(self) -> list[Server]:
        return [server for server in self.servers if server.process.poll() is None]

    def master_of(self, key: str) -> Server:
        """Return the node that has the key, once all nodes say the same, and that it works."""
        slot = int(ask(self.living()[0], "CLUSTER", "KEYSLOT", key))

        def agreed() -> Server | None:
            ports = {_port_of(node, slot) for node in self.living()}
            named = [server for server in self.living() if {server.port} == ports]
            return named[0] if named and is_master(named[0]) else None

        found: Server = wait_for(agreed, "one master of the slot")
        return found

    def replica_of(self, master: Server) -> Server:
        """Return a node that has all that this master has."""

        def found() -> Server | None:
            for server in self.living():
                role = ask(server, "ROLE")
                if role[0] == "slave" and role[2] == master.port and role[3] == "connected":
                    return server
            return None

        server: Server = wait_for(found, "a replica")
        return server

    def other_master(self, than: Server) -> Server:
        return next(s for s in self.living() if s.port != than.port and is_master(s))

    def restart(self, server: Server) -> None:
        """Start a node that died again: it becomes the replica of who took its place."""
        self.servers.remove(server)
        self.servers.append(start_node(self.folder / str(server.port), server.port))

    def move_slot(self, key: str, *, while_half: Callable[[], None] = lambda: None) -> None:
        """Move the slot of a key to another master; `while_half` runs while it is on both."""
        source = self.master_of(key)
        target = self.other_master(source)
        slot = int(ask(source, "CLUSTER", "KEYSLOT", key))
        ids = {server.port: ask(server, "CLUSTER", "MYID") for server in (source, target)}
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        while_half()
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        for server in (target, source):
            ask(server, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])


def on_cluster(settings: Settings, site: ClusterSite) -> Settings:
    """Return the settings of programs that have their queues on the cluster."""
    return settings.model_copy(
        update={
            "redis_url": RedisUrl(site.url),
            "redis_cluster": True,
            "queue_prefix": f"{{{settings.queue_prefix}-*}}",
        }
    )


def start_cluster(folder: Path, *, replicated: bool = True) -> ClusterSite:
    """Start three masters, with a replica each unless told not to; return when all of it works."""
    ports = [free_node_port() for _ in range(2 * _MASTERS if replicated else _MASTERS)]
    site = ClusterSite([], folder)
    with _or_stop(site):
        site.servers += (start_node(folder / str(port), port) for port in ports)
        _make_one(site.servers)
    return site


def _make_one(nodes: list[Server]) -> None:
    """Give each master its share of the slots, make nodes know each other, and copy."""
    masters, replicas = nodes[:_MASTERS], nodes[_MASTERS:]
    for n, master in enumerate(masters):
        slots = range(n * _SLOTS // _MASTERS, (n + 1) * _SLOTS // _MASTERS)
        ask(master, "CLUSTER", "ADDSLOTS", *slots)
        ask(master, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for node in nodes[1:]:
        ask(node, "CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    _until_all(nodes, lambda node: _info(node)["cluster_known_nodes"] == str(len(nodes)))
    for replica, master in zip(replicas, masters, strict=False):
        ask(replica, "CLUSTER", "REPLICATE", ask(master, "CLUSTER", "MYID"))
    _until_all(nodes, lambda node: _info(node)["cluster_state"] == "ok")
    _until_all(replicas, _link_is_up)


@contextmanager
def _or_stop(site: Site) -> Iterator[None]:
    """Leave no server behind that is of no use, where not all of them start."""
    try:
        yield
    except BaseException:
        site.stop()
        raise


def _until_all(nodes: Iterable[Server], well: Callable[[Server], bool]) -> None:
    for node in nodes:
        wait_for(lambda: well(node), "the cluster")  # noqa: B023


def _start(folder: Path, port: int, settings: dict[str, str] | None = None) -> Server:
    # A replica is given all of it at once, and not first a wait for others that might want it.
    return start_redis(
        folder,
        port,
        appendonly=False,
        settings={"repl-diskless-sync-delay": "0"} | (settings or {}),
    )


def start_node(folder: Path, port: int, settings: dict[str, str] | None = None) -> Server:
    """Start a node of a cluster, which is none yet."""
    of_cluster = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
    return _start(folder, port, of_cluster | (settings or {}))


def free_node_port() -> int:
    """Return a free port of which the one that is 10,000 above is free as well: the nodes' own."""
    while True:
        port = free_port()
        if port + _BUS < 2**16 and not port_is_taken(port + _BUS):
            return port


def _info(node: Server) -> dict[str, str]:
    return dict(line.split(":", 1) for line in ask(node, "CLUSTER", "INFO").split())


def _port_of(node: Server, slot: int) -> int | None:
    for first, last, master, *_ in ask(node, "CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return int(master[1])
    return None
