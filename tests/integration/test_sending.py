"""Clients that send by redis-py: none of them loses a cancel, and none hears another's reply."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from orderflow.bull.connection import connect_producer, connect_wait
from orderflow.redis_servers import RedisServers
from orderflow.sandbox.servers import free_port, start_redis

#: A connect, a login and a command take fewer, unless something else keeps Redis from its work.
MOST_TURNS = 500


@pytest.fixture(scope="module")
def redis_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder: Path = tmp_path_factory.mktemp("redis")
    server = start_redis(folder, free_port(), settings={"unixsocket": str(folder / "socket")})
    yield {"port": server.url, "socket": f"unix://{folder / 'socket'}"}
    server.stop()


async def is_cancelled(task: asyncio.Task[None], turns: int) -> bool:
    """Cancel it after so many turns of the loop; False if it had ended by then."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        task.result()
        return False
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), f"a cancel after {turns} turns was lost"
    return True


@pytest.mark.parametrize("place", ["port", "socket"])
async def test_a_cancel_is_lost_at_no_turn_of_the_loop(redis_urls, place):
    """Neither while it connects and logs in, nor while a command is under way."""
    for turns in range(1, MOST_TURNS):
        client = connect_wait(RedisServers(redis_urls[place]), "bull")
        try:
            if not await is_cancelled(asyncio.create_task(client.ping()), turns):
                break
            assert await client.echo("mine") == "mine"
        finally:
            await client.aclose()


async def test_a_transaction_loses_no_cancel(redis_urls):
    """Its commands go over a connection of redis-py, also where single ones are pipelined."""
    client = connect_producer(RedisServers(redis_urls["port"]), 2_000, "bull")

    async def count() -> None:
        async with client.pipeline() as pipe:
            pipe.incr("counted")
            await pipe.execute()

    try:
        await count()
        for turns in range(1, MOST_TURNS):
            if not await is_cancelled(asyncio.create_task(count()), turns):
                break
            assert await client.echo("mine") == "mine"
    finally:
        await client.aclose()
