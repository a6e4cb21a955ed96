"""PostgreSQL at several addresses, of which some do not answer, or not as they should."""

from __future__ import annotations

import asyncio
import socket

import pytest

from orderflow.db import open_database
from orderflow.db.hosts import addresses_of
from orderflow.errors import DatabaseUnavailable
from orderflow.sandbox.servers import free_port


def test_each_host_has_an_address_with_all_else():
    url = "postgresql://me:p%40s@one:5433,[::1],three/shop?target_session_attrs=read-write"
    assert addresses_of(url) == [
        f"postgresql://me:p%40s@{host}/shop?target_session_attrs=read-write"
        for host in ("one:5433", "[::1]", "three")
    ]
    assert addresses_of("postgresql:///shop?host=/run") == ["postgresql:///shop?host=/run"]


async def test_one_that_says_nothing_does_not_hide_the_next_and_is_asked_once(postgres_server):
    # It takes connections, and answers none, as a host that is gone behind a firewall.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{postgres_server.port}"
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        async with open_database(url, 4, 3_000) as db:
            await db.ping()
            await asyncio.gather(*(_hold(db) for _ in range(4)))
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


async def _hold(db):
    """Have a connection of one's own, for as long as the others take theirs."""
    async with db.transaction() as transaction:
        await transaction.rest()
        await asyncio.sleep(0.05)


async def test_where_no_host_answers_the_last_reason_is_told():
    hosts = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    async with open_database(f"postgresql://postgres@{hosts}/postgres", 2, 3_000) as db:
        with pytest.raises(DatabaseUnavailable, match="ConnectionRefusedError"):
            await db.ping()
