"""The pipelined client against a real Redis, and against one that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from bullmq import Job, Queue, Worker
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orderflow.bull.connection import connect_producer, connect_worker
from orderflow.bull.pipelined import PipelinedRedis
from orderflow.bull.wire import MAX_IN_FLIGHT
from orderflow.redis_servers import RedisServers
from orderflow.sandbox.servers import free_port, start_redis


@pytest.fixture
async def client(redis_server) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis.from_url(redis_server.url, decode_responses=True)
    yield client
    await client.aclose()


async def connections(client: Redis, name: str) -> list[dict[str, str]]:
    return [one for one in await client.client_list() if one["name"] == name]


async def test_each_command_gets_its_own_reply(client, settings):
    keys = [f"{settings.queue_prefix}:{n}" for n in range(10 * MAX_IN_FLIGHT)]
    await asyncio.gather(*(client.set(key, n, ex=60) for n, key in enumerate(keys)))
    assert await asyncio.gather(*map(client.get, keys)) == [str(n) for n in range(len(keys))]


async def test_all_share_one_connection(client, redis_server, settings):
    await client.client_setname(settings.queue_prefix)
    await asyncio.gather(*(client.ping() for _ in range(500)))
    async with Redis.from_url(redis_server.url, decode_responses=True) as other:
        before = len(await connections(other, settings.queue_prefix))
    assert before == 1


async def test_one_error_is_one_commands(client, settings):
    key = f"{settings.queue_prefix}:text"
    await client.set(key, "text", ex=60)
    good, bad, after = await asyncio.gather(
        client.get(key), client.incr(key), client.get(key), return_exceptions=True
    )
    assert (good, after) == ("text", "text")
    assert isinstance(bad, ResponseError)


async def test_bytes_that_are_no_text_are_one_commands_trouble(client, redis_server, settings):
    key = f"{settings.queue_prefix}:bytes"
    async with Redis.from_url(redis_server.url) as raw:
        await raw.set(key, b"\xff\xfe", ex=60)
    bad, pong = await asyncio.gather(client.get(key), client.ping(), return_exceptions=True)
    assert isinstance(bad, UnicodeDecodeError)
    assert pong is True


async def test_one_that_gives_up_leaves_the_order_of_replies(client, settings):
    key = f"{settings.queue_prefix}:count"
    await client.ping()
    tasks = [asyncio.create_task(client.incr(key)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == sorted(
        {result for result in results if isinstance(result, int)}
    )
    assert await client.get(key) in {"4", "5"}
    await client.delete(key)


async def test_what_cannot_be_sent_is_refused(client):
    with pytest.raises(DataError):
        await client.set("key", object())
    assert await client.ping() is True


async def test_a_blocking_command_does_not_hold_up_the_others(client, settings):
    key = f"{settings.queue_prefix}:blocked"
    blocked = asyncio.create_task(client.bzpopmin(key, timeout=30))
    assert await client.ping() is True
    await client.zadd(key, {"job": 1})
    assert await blocked == (key, "job", 1.0)


async def test_a_script_is_loaded_when_redis_forgot_it(client, settings):
    script = client.register_script("return {KEYS[1], ARGV[1]}")
    key = f"{settings.queue_prefix}:key"
    assert await script(keys=[key], args=["a"]) == [key, "a"]
    await client.script_flush()
    assert await asyncio.gather(*(script([key], [n]) for n in range(3))) == [
        [key, str(n)] for n in range(3)
    ]
    await client.script_flush()
    with pytest.raises(NoScriptError):
        await client.evalsha(script.sha, 1, key, "a")


async def test_pipelines_and_subscriptions_are_those_of_redis_py(client, settings):
    key = f"{settings.queue_prefix}:p"
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.set(key, 1, ex=60)
        pipeline.incr(key)
        assert await pipeline.execute() == [True, 2]


async def test_a_restart_fails_what_is_under_way_and_nothing_after(tmp_path):
    port = free_port()
    server = start_redis(tmp_path, port)
    client = connect_producer(RedisServers(server.url), 2_000, "bull")
    try:
        await client.set("kept", "1")
        await client.execute_command("CLIENT", "PAUSE", "30000", "ALL")
        under_way, behind = (asyncio.create_task(client.get("kept")) for _ in range(2))
        await asyncio.sleep(0.05)
        server.kill()
        failed = await asyncio.gather(under_way, behind, return_exceptions=True)
        away = await asyncio.gather(client.get("kept"), return_exceptions=True)
        server = start_redis(tmp_path, port)
        back = await client.get("kept")
    finally:
        await client.aclose()
        server.stop()
    assert [type(error) for error in (*failed, *away)] == [RedisConnectionError] * 3
    assert back == "1"


async def test_a_silent_redis_is_given_up_on_and_then_asked_anew(redis_server):
    client = connect_producer(RedisServers(redis_server.url), 200, "bull")
    async with Redis.from_url(redis_server.url) as admin:
        try:
            await client.ping()
            await admin.execute_command("CLIENT", "PAUSE", "600", "ALL")
            with pytest.raises(RedisTimeoutError):
                await client.ping()
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert await client.ping() is True
                        break
                    except RedisTimeoutError:
                        continue
        finally:
            await client.aclose()


async def test_closing_fails_what_is_under_way(redis_server):
    client = connect_producer(RedisServers(redis_server.url), 2_000, "bull")
    await client.ping()
    waiting = asyncio.create_task(client.execute_command("CLIENT", "PAUSE", "1", "WRITE"))
    slow = asyncio.create_task(client.ping())
    await asyncio.sleep(0)
    await client.aclose()
    results = await asyncio.gather(waiting, slow, return_exceptions=True)
    assert {type(result) for result in results} == {RedisConnectionError}


@pytest.mark.parametrize("turns", range(1, 25))
async def test_closing_leaves_nothing_open_that_was_being_connected(redis_server, settings, turns):
    """At whatever turn of the loop it comes."""
    name = settings.queue_prefix
    client = PipelinedRedis.from_url(redis_server.url, client_name=name, socket_timeout=2.0)
    async with Redis.from_url(redis_server.url, decode_responses=True) as other:
        asking = asyncio.create_task(client.ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.aclose()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(10):
            while await connections(other, name):
                await asyncio.sleep(0.01)


async def test_closing_fails_what_waits_for_a_connection():
    silent = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    client = connect_producer(
        RedisServers(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 5_000, "bull"
    )
    waiting = [asyncio.create_task(client.ping()) for _ in range(3)]
    await asyncio.sleep(0.05)
    await client.aclose()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    silent.set()
    server.close()
    await server.wait_closed()
    assert [type(result) for result in results] == [RedisConnectionError] * 3


async def test_the_official_queue_and_worker_run_on_it(redis_server, settings):
    opts = {"prefix": settings.queue_prefix}
    done: dict[int, int] = {}
    all_done = asyncio.Event()

    async def process(job: Job, _token: str) -> int:
        await asyncio.sleep(0)
        return 2 * int(job.data["n"])

    def completed(job: Job, result: int) -> None:
        done[job.data["n"]] = result
        if len(done) == 100:
            all_done.set()

    queue = Queue(
        "official", opts | {"connection": connect_worker(RedisServers(redis_server.url), "bull")}
    )
    worker = Worker(
        "official",
        process,
        opts
        | {
            "connection": connect_worker(RedisServers(redis_server.url), "bull"),
            "concurrency": 10,
            "drainDelay": 1,
        },
    )
    worker.on("completed", completed)
    try:
        await asyncio.gather(*(queue.add("job", {"n": n}, {"priority": 1}) for n in range(50)))
        await queue.addBulk([{"name": "job", "data": {"n": n}} for n in range(50, 100)])
        async with asyncio.timeout(30):
            await all_done.wait()
        counts = await queue.getJobCounts("completed", "active", "waiting", "prioritized")
    finally:
        await worker.close()
        await queue.close()
    assert done == {n: 2 * n for n in range(100)}
    assert counts == {"completed": 100, "active": 0, "waiting": 0, "prioritized": 0}


async def test_something_else_than_redis_is_an_error():
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = connect_producer(RedisServers(f"redis://127.0.0.1:{port}"), 500, "bull")
    try:
        with pytest.raises((RedisConnectionError, ResponseError)):
            await client.ping()
    finally:
        await client.aclose()
        server.close()
        await server.wait_closed()
