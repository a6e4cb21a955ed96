"""PostgreSQL that dies for good, and another one that takes its place."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress

import asyncpg
import psutil

from orderflow.sandbox.chaos.homes import processes_of, start_standby_in
from orderflow.sandbox.chaos.scenarios import Run, scenario
from orderflow.sandbox.chaos.stack import ChaosError
from orderflow.sandbox.servers import Server

_LOOK_EVERY_S = 0.05
#: Of a minute.
_LOOKS = 1_200


@scenario(
    "postgres-failover",
    "PostgreSQL dies for good, and its synchronous standby, at another address, is promoted",
    may_tell_twice=True,
)
async def _postgres_failover(run: Run) -> list[str]:
    primary, home = run.stack.postgres, run.stack.homes["postgres"]
    port = run.stack.spare_postgres_port
    new_home = run.stack.folder / f"postgres-{port}"
    standby = await asyncio.to_thread(start_standby_in, new_home, port, primary)
    try:
        await _wait_for_it(primary)
        await asyncio.sleep(run.some_s(0.5, 1.5))
        for process in processes_of(primary):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        primary.kill()
        await asyncio.sleep(run.some_s(0.2, 1.5))
        await _promote(standby)
    except BaseException:
        await asyncio.to_thread(standby.stop)
        raise
    run.stack.take_over(standby, new_home)
    await asyncio.to_thread(shutil.rmtree, home)
    return []


async def _wait_for_it(primary: Server) -> None:
    """Have each commit wait for the standby; return when that is so. Raises ChaosError."""
    connection = await asyncpg.connect(primary.url)
    try:
        # Set once the standby has its copy, or it would wait for one of its own later.
        await _until(connection, "SELECT state = 'streaming' FROM pg_stat_replication")
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        await _until(connection, "SELECT sync_state = 'sync' FROM pg_stat_replication")
    finally:
        await connection.close()


async def _until(connection: asyncpg.Connection[asyncpg.Record], answers: str) -> None:
    for _ in range(_LOOKS):
        if await connection.fetchval(answers):
            return
        await asyncio.sleep(_LOOK_EVERY_S)
    raise ChaosError("the standby of PostgreSQL does not follow it")


async def _promote(standby: Server) -> None:
    connection = await asyncpg.connect(standby.url)
    try:
        await connection.execute("SELECT pg_promote()")
    finally:
        await connection.close()
