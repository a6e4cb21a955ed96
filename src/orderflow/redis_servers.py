"""Where Redis is, and how one logs in there: one server, or several of which one is the master."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

_REDIS_PORT = 6379
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^\[\]:\s]+))(?::(?P<port>[0-9]{0,5}))?")
_URL = re.compile(r"(?P<before>\w+://(?:[^@/?]*@)?)(?P<hosts>[^/?]*)(?P<after>.*)", re.DOTALL)
_DATABASE = re.compile(r"[?&]db=([0-9]+)|://[^/?]*/([0-9]+)(?=$|[?])")


class Address(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_addresses(text: str, port: int) -> tuple[Address, ...]:
    """Read `host:port,host:port`; `port` where none is said. Raises ValueError."""
    found = []
    for part in text.split(","):
        read = _HOST.fullmatch(part.strip())
        if read is None or not 0 < int(read["port"] or port) < 2**16:
            raise ValueError("must be host:port, or several with commas between them")
        found.append(Address(read["v6"] or read["name"], int(read["port"] or port)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RedisServers:
    """The Redis that the jobs live on. It may hold passwords, which its repr never shows.

    `dsn` is the URL of the one server. With `cluster` it may name several nodes, as
    `redis://user:password@a:7000,b:7001`. With `sentinels` they say where the server of the name
    `sentinel_master` is: then only login, database and TLS are those of `dsn`, and the sentinels
    are asked over TLS, too, where it begins with `rediss`.
    """

    dsn: str = field(repr=False)
    sentinels: tuple[Address, ...] = ()
    sentinel_master: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    cluster: bool = False

    def check(self) -> None:
        """Raise ValueError for a URL that does not fit one Redis, sentinels, or a cluster."""
        if self.first_dsn != self.dsn and not self.cluster:
            raise ValueError("REDIS_URL may have several hosts only with REDIS_CLUSTER=true")
        if (self.cluster or self.sentinels) and not self._names_hosts:
            raise ValueError("REDIS_URL must be redis:// or rediss://, a host, and a port")
        if self.cluster and self.database:
            raise ValueError("REDIS_DB, or the number in REDIS_URL, must be 0 with REDIS_CLUSTER")

    @property
    def nodes(self) -> tuple[Address, ...]:
        """The servers that `dsn` names; none where it names a socket. Raises ValueError."""
        read = _URL.fullmatch(self.dsn)
        return (
            () if read is None or not read["hosts"] else read_addresses(read["hosts"], _REDIS_PORT)
        )

    @property
    def database(self) -> int:
        """The number of the database that `dsn` asks for."""
        read = _DATABASE.search(self.dsn)
        return int(read[1] or read[2]) if read else 0

    @property
    def first_dsn(self) -> str:
        """The URL with the first of its servers alone. It may hold a password: never log it."""
        read = _URL.fullmatch(self.dsn)
        if read is None or "," not in read["hosts"]:
            return self.dsn
        return f"{read['before']}{read['hosts'].partition(',')[0]}{read['after']}"

    @property
    def _names_hosts(self) -> bool:
        try:
            return bool(self.nodes)
        except ValueError:
            return False
