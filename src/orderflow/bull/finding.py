"""Finding the master that has the keys, at every connect: by Redis Sentinel, or in a Redis Cluster.

All keys of a BullMQ queue lie in one hash slot, so a queue has one master at a time. Whoever has
found it talks to it as to a Redis that is alone, and is told when it is not the master any more.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, RedisSSLContext
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from orderflow.bull.replies import has_left, is_moving
from orderflow.bull.sending import TcpConnection, TlsConnection
from orderflow.redis_servers import Address, RedisServers

log = structlog.get_logger(__name__)

#: So many servers are asked at once, and the first that knows is believed: one that is away costs
#: no time, and a large cluster is not asked as a whole.
_ASKED_AT_ONCE = 3


T = TypeVar("T")
Connect = Callable[[Address], AbstractConnection]


class MasterNotFound(RedisConnectionError):
    """No server says where the master is. `fix` says what is to be done."""

    def __init__(self, said: str, fix: str) -> None:
        super().__init__(f"{said}. {fix}")
        self.said, self.fix = said, fix


class MasterFinder(ABC):
    """Knows whom to ask, and finds the master anew each time. One for each client."""

    def __init__(self, places: Sequence[Address], connect: Connect) -> None:
        self._places = tuple(places)
        self._connect = connect
        self._told: Address | None = None
        #: What the newest search has read from files for TLS: that takes longer than all else.
        self.tls: RedisSSLContext | None = None

    async def find(self) -> Address:
        """Return where the master is now. Raises MasterNotFound."""
        told, self._told, self.tls = self._told, None, None
        if told is not None:
            return told
        failures: list[Exception] = []
        order = random.sample(self._places, len(self._places))
        for start in range(0, len(order), _ASKED_AT_ONCE):
            found = await self._ask_all(order[start : start + _ASKED_AT_ONCE], failures)
            if found is not None:
                _said.clear()
                return found
        error = self._not_found(failures)
        _say_once(error)
        raise error

    async def ask_each(self, *command: str) -> dict[Address, Any]:
        """Return what each of them replies, or the error in the place of its reply."""

        async def reply(connection: AbstractConnection, _place: Address) -> Any:
            await connection.send_command(*command)
            return await connection.read_response()

        replies = await asyncio.gather(
            *(self._ask_one(place, reply) for place in self._places), return_exceptions=True
        )
        return dict(zip(self._places, replies, strict=True))

    def learn(self, error: Exception) -> None:
        """Remember what a reply said of where to look next."""
        if isinstance(error, AskError) and has_left(error) and error.host.strip("?"):
            self._told = Address(error.host, error.port)

    async def check(self, connection: AbstractConnection) -> None:  # noqa: B027 - most need none
        """Raise redis.ConnectionError if what a connection was made to is not the master."""

    @abstractmethod
    async def _ask(self, connection: AbstractConnection, place: Address) -> Address:
        """Return what one of the servers says."""

    @abstractmethod
    def _not_found(self, failures: Sequence[Exception]) -> MasterNotFound:
        """Return what is to be said when none of the servers knows."""

    async def _ask_all(
        self, places: Sequence[Address], failures: list[Exception]
    ) -> Address | None:
        asked = [asyncio.create_task(self._ask_one(place, self._ask)) for place in places]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except (RedisError, OSError) as error:
                    failures.append(error)
            return None
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _ask_one(self, place: Address, ask: Callable[..., Awaitable[T]]) -> T:
        connection = self._connect(place)
        if isinstance(connection, TlsConnection):
            self.tls = connection.ssl_context = self.tls or connection.ssl_context
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            return await ask(connection, place)
        finally:
            await connection.disconnect(nowait=True)


class SentinelFinder(MasterFinder):
    """Asks the sentinels for the master of a name."""

    def __init__(self, name: str, places: Sequence[Address], connect: Connect) -> None:
        super().__init__(places, connect)
        self._name = name

    async def check(self, connection: AbstractConnection) -> None:
        """See whether it is the master: a sentinel may not have heard yet that it was replaced."""
        try:
            await connection.send_command("ROLE")
            role = await connection.read_response()
        except NoPermissionError:
            return  # it will say so when it is written to
        if role[0] != "master":
            await connection.disconnect(nowait=True)
            raise RedisConnectionError("the sentinels still call a replica the master")

    async def _ask(self, connection: AbstractConnection, place: Address) -> Address:
        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        try:
            reply = await connection.read_response()
        except ResponseError as error:
            if "unknown command" in str(error):
                raise _no_sentinel(place) from error
            raise
        if reply is None:
            raise _unknown(self._name)
        return Address(reply[0], int(reply[1]))

    def _not_found(self, failures: Sequence[Exception]) -> MasterNotFound:
        return _plainest(failures) or MasterNotFound(
            f"No sentinel can be asked where the Redis '{self._name}' is: {_reasons(failures)}",
            "Start them, or look at REDIS_SENTINELS"
            + (_LOGIN_OF_SENTINELS if _is_login(failures) else ""),
        )


class ClusterFinder(MasterFinder):
    """Asks the nodes of a cluster whose the slot of some keys is; knows more nodes with time."""

    def __init__(self, prefix: str, places: Sequence[Address], connect: Connect) -> None:
        super().__init__(places, connect)
        self._named = self._places
        self._slot = key_slot(f"{prefix}:".encode())

    async def _ask(self, connection: AbstractConnection, place: Address) -> Address:
        await connection.send_command("CLUSTER", "SLOTS")
        try:
            ranges = await connection.read_response()
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise _no_cluster(place) from error
            raise
        nodes = [
            Address(node[0] or place.host, int(node[1])) for part in ranges for node in part[2:]
        ]
        self._places = tuple(dict.fromkeys((*self._named, *nodes)))
        for first, last, master, *_replicas in ranges:
            if first <= self._slot <= last:
                return Address(master[0] or place.host, int(master[1]))
        raise RedisConnectionError(f"no node of the cluster has the slot {self._slot}")

    def _not_found(self, failures: Sequence[Exception]) -> MasterNotFound:
        return _plainest(failures) or MasterNotFound(
            f"No node of the Redis Cluster can be asked: {_reasons(failures)}",
            "Start them, or look at REDIS_URL",
        )


class _Found:
    """A connection that finds its address at every connect, and leaves who is not the master."""

    host: str
    port: int

    def __init__(self, *, finder: MasterFinder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._finder = finder

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:  # type: ignore[attr-defined]
            self.host, self.port = await self._finder.find()
        await super().connect_check_health(*args, **kwargs)  # type: ignore[misc]

    async def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        await super().on_connect_check_health(*args, **kwargs)  # type: ignore[misc]
        await self._finder.check(self)  # type: ignore[arg-type]

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if not has_left(error) and not is_moving(error):
                raise
            self._finder.learn(error)
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise RedisConnectionError(f"this server does not take it now: {error}") from error


class FoundConnection(_Found, TcpConnection):
    """A connection to the master of a name, or of a slot."""


class FoundTlsConnection(_Found, TlsConnection):
    """The same, over TLS: the certificate is checked against the address that was found."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context = self._finder.tls or self.ssl_context
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments


def finder_for(
    servers: RedisServers, prefix: str, kind: type[AbstractConnection], options: Mapping[str, Any]
) -> MasterFinder | None:
    """Return who finds the master of the keys under `prefix`; None where Redis is one server.

    `kind` and `options` are those of a connection to the master; who is asked is connected to in
    the same way, sentinels with a login of their own. Raises ValueError.
    """
    if not servers.cluster and not servers.sentinels:
        return None
    asking = dict(options)
    if servers.sentinels:
        asking |= {
            "username": servers.sentinel_username,
            "password": servers.sentinel_password,
            "db": 0,
        }

    def connect(place: Address) -> AbstractConnection:
        return kind(**(asking | {"host": place.host, "port": place.port}))

    if servers.sentinels:
        return SentinelFinder(servers.sentinel_master, servers.sentinels, connect)
    return ClusterFinder(prefix, servers.nodes, connect)


def finder_of(client: Redis) -> MasterFinder | None:
    """Return who finds the master for a client; None where Redis is one server."""
    finder: MasterFinder | None = client.connection_pool.connection_kwargs.get("finder")
    return finder


_LOGIN_OF_SENTINELS = ", REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD"


def _no_sentinel(place: Address) -> MasterNotFound:
    return MasterNotFound(
        f"{place} of REDIS_SENTINELS is no sentinel",
        "Name the sentinels there, which listen on 26379 by default, and not the Redis itself",
    )


def _unknown(name: str) -> MasterNotFound:
    return MasterNotFound(
        f"The sentinels know no Redis of the name '{name}'",
        "Set REDIS_SENTINEL_MASTER to the name after `sentinel monitor` in sentinel.conf",
    )


def _no_cluster(place: Address) -> MasterNotFound:
    return MasterNotFound(
        f"REDIS_CLUSTER is true, but {place} is no node of a cluster",
        "Leave REDIS_CLUSTER out, or set cluster-enabled yes on the server",
    )


def _plainest(failures: Sequence[Exception]) -> MasterNotFound | None:
    """Return the failure that says by itself what is wrong, if there is one."""
    return next((error for error in failures if isinstance(error, MasterNotFound)), None)


def _is_login(failures: Sequence[Exception]) -> bool:
    return any(isinstance(error, AuthenticationError) for error in failures)


def _reasons(failures: Sequence[Exception]) -> str:
    return "; ".join(sorted({f"{error}" or type(error).__name__ for error in failures}))


#: What was said, by any client of this process, since a master was found.
_said: set[str] = set()


def _say_once(error: MasterNotFound) -> None:
    if str(error) not in _said:
        _said.add(str(error))
        log.warning("the master of Redis is not found", reason=error.said, fix=error.fix)
