"""Servers that die, freeze, forget, and a network that cannot be trusted."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx

from orderflow.sandbox.chaos.homes import processes_of
from orderflow.sandbox.chaos.scenarios import Run, scenario
from orderflow.sandbox.servers import Server
from orderflow.sandbox.tcp_proxy import Mode


@scenario("kill-redis", "Redis dies by SIGKILL twice; what its log had not on disk is gone")
async def _kill_redis(run: Run) -> list[str]:
    for _ in range(2):
        await asyncio.sleep(run.some_s(0.5, 2.0))
        await asyncio.to_thread(run.stack.redis.kill)
        await asyncio.sleep(run.some_s(0.2, 1.5))
        await run.stack.restart_redis()
    return []


@scenario("flushall", "FLUSHALL in full flow, twice")
async def _flushall(run: Run) -> list[str]:
    async with run.stack.redis_client() as redis:
        for _ in range(2):
            await asyncio.sleep(run.some_s(0.5, 2.0))
            await redis.flushall()
    return []


@scenario("redis-frozen", "Redis stands still (SIGSTOP) for some seconds, twice")
async def _redis_frozen(run: Run) -> list[str]:
    for _ in range(2):
        await asyncio.sleep(run.some_s(0.5, 1.5))
        await _freeze(run.stack.redis, run.some_s(1.0, 4.0))
    return []


@scenario("redis-slow", "Every answer of Redis is late by 50 to 300 ms")
async def _redis_slow(run: Run) -> list[str]:
    run.stack.network.delay_s = run.some_s(0.05, 0.3)
    await _network(run, Mode.SLOW, 4.0)
    return []


@scenario("redis-reset", "Connections to Redis are reset, and new ones refused for a while")
async def _redis_reset(run: Run) -> list[str]:
    for _ in range(3):
        await _network(run, Mode.RESET, run.some_s(0.2, 1.5))
    return []


@scenario("redis-black-hole", "What is sent to Redis, and what it answers, vanishes")
async def _redis_black_hole(run: Run) -> list[str]:
    for _ in range(2):
        await _network(run, Mode.BLACK_HOLE, run.some_s(1.0, 3.0))
    return []


async def _network(run: Run, mode: Mode, seconds: float) -> None:
    await asyncio.sleep(run.some_s(0.3, 1.0))
    run.stack.network.set_mode(mode)
    await asyncio.sleep(seconds)
    run.stack.network.set_mode(Mode.PASS)
    if mode is Mode.BLACK_HOLE:
        # A stream with a hole in it is of no use to either side, and the kernel will say so once.
        run.stack.network.reset_connections()


@scenario(
    "restart-postgres",
    "PostgreSQL is restarted: at once as by a power cut, and fast as by an upgrade",
    may_tell_twice=True,
)
async def _restart_postgres(run: Run) -> list[str]:
    for end in (Server.kill, Server.stop):
        await asyncio.sleep(run.some_s(0.5, 1.5))
        await asyncio.to_thread(end, run.stack.postgres)
        await asyncio.sleep(run.some_s(0.1, 1.0))
        await run.stack.restart_postgres()
    return []


@scenario(
    "kill-connections",
    "All connections to PostgreSQL are ended, again and again",
    may_tell_twice=True,
)
async def _kill_connections(run: Run) -> list[str]:
    admin = await asyncpg.connect(
        run.stack.postgres.url, server_settings={"application_name": "chaos"}
    )
    try:
        for _ in range(8):
            await asyncio.sleep(run.some_s(0.1, 0.8))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'orderflow'"
            )
    finally:
        await admin.close()
    return []


@scenario(
    "postgres-frozen",
    "PostgreSQL stands still (SIGSTOP) for some seconds",
    may_tell_twice=True,
)
async def _postgres_frozen(run: Run) -> list[str]:
    await asyncio.sleep(run.some_s(0.5, 1.5))
    await _freeze(run.stack.postgres, run.some_s(2.0, 4.0))
    return []


async def _freeze(server: Server, seconds: float) -> None:
    processes = processes_of(server)
    for process in processes:
        process.suspend()
    await asyncio.sleep(seconds)
    for process in processes:
        process.resume()


@scenario(
    "gateway", "The gateway fails, answers late, dies, and says 503 to everything for a while"
)
async def _gateway(run: Run) -> list[str]:
    url = f"{run.stack.settings.gateway_url}/faults"
    async with httpx.AsyncClient(trust_env=False) as client:

        async def set_faults(seconds: float, **faults: float) -> None:
            (await client.post(url, json=faults)).raise_for_status()
            await asyncio.sleep(seconds)

        await set_faults(run.some_s(0.5, 1.5), faultRate=0.5)
        await set_faults(run.some_s(0.5, 1.5), faultRate=0, latencyMs=run.chance.randint(200, 1500))
        run.stack.kill("gateway")
        await run.stack.wait_for_death("gateway", 5)
        await asyncio.sleep(1)
        await run.stack.mend()
        await set_faults(run.some_s(2.0, 4.0), faultRate=1.0)
        await set_faults(0, faultRate=0, latencyMs=0)
    return []
