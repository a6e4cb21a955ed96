"""The proxy that plays a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orderflow.sandbox.tcp_proxy import Mode, TcpProxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(100):
        writer.write(chunk)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, text: bytes) -> bytes:
        self.writer.write(text)
        return await self.reader.read(100)

    async def is_silent(self, text: bytes = b"?") -> bool:
        self.writer.write(text)
        try:
            await asyncio.wait_for(self.reader.read(1), 0.1)
        except TimeoutError:
            return True
        return False


@pytest.fixture
async def connect(proxy):
    clients = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.transport.abort()


async def test_it_passes_bytes_on_both_ways(connect):
    client, other = await connect(), await connect()
    assert [await client.say(b"a"), await other.say(b"b")] == [b"a", b"b"]


async def test_what_is_frozen_arrives_later(proxy, connect):
    client = await connect()
    proxy.set_mode(Mode.FREEZE)
    assert await client.is_silent(b"kept")
    proxy.set_mode(Mode.PASS)
    assert await client.reader.read(100) == b"kept"


async def test_a_connection_that_lost_bytes_is_dead_and_a_new_one_is_not(proxy, connect):
    client, idle = await connect(), await connect()
    assert await idle.say(b"a") == b"a"
    proxy.set_mode(Mode.BLACK_HOLE)
    assert await client.is_silent()
    assert await (await connect()).is_silent()
    proxy.set_mode(Mode.PASS)
    assert await client.is_silent()
    assert await idle.say(b"b") == b"b"
    assert await (await connect()).say(b"c") == b"c"


async def test_slow_bytes_wait(proxy, connect):
    client = await connect()
    proxy.delay_s = 0.15
    proxy.set_mode(Mode.SLOW)
    assert await client.is_silent(b"a")
    assert await client.reader.read(100) == b"a"


async def test_connections_are_reset(proxy, connect):
    client = await connect()
    assert await client.say(b"a") == b"a"
    proxy.set_mode(Mode.RESET)
    with pytest.raises(ConnectionResetError):
        await client.say(b"b")
    new = await connect()
    with pytest.raises(ConnectionResetError):
        await new.say(b"c")
    proxy.set_mode(Mode.PASS)
    assert await (await connect()).say(b"d") == b"d"


async def test_it_ends_with_connections_open(proxy, connect):
    proxy.set_mode(Mode.BLACK_HOLE)
    assert await (await connect()).is_silent()


async def test_a_server_that_is_not_there_is_a_reset():
    async with TcpProxy("127.0.0.1", 1) as proxy:
        client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        with pytest.raises(ConnectionResetError):
            await client.say(b"a")
        client.writer.close()
