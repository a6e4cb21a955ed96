"""Empty, migrated databases: each is for one test at a time, and used again where that is safe.

To make one is to copy eight megabytes, which takes longer than most tests. One in which a test left
nothing but rows is emptied instead; one whose schema or settings were changed, or that somebody is
still connected to, is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

#: What a test may have changed besides rows; xmin is the transaction that wrote a line there.
_SHAPE = """
WITH ours AS (
    SELECT * FROM pg_class
    WHERE oid >= 16384 AND relnamespace::regnamespace::text !~ '^pg_(toast_)?temp'
)
SELECT md5(string_agg(line, E'\n' ORDER BY line)) FROM (
    SELECT format('%s %s %s %s %s', oid, relname, relkind, relacl, reloptions) FROM ours
    UNION ALL SELECT format('%s.%s %s', attrelid, attnum, a.xmin)
        FROM pg_attribute a JOIN ours ON ours.oid = attrelid
    UNION ALL SELECT format('%s %s', indexrelid, i.xmin)
        FROM pg_index i JOIN ours ON ours.oid = indexrelid
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_trigger WHERE oid >= 16384
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT format('version %s', version_num) FROM alembic_version
    UNION ALL SELECT format('%s %s', datacl, setconfig)
        FROM pg_database d JOIN pg_db_role_setting ON setdatabase = d.oid
        WHERE datname = current_database()
) AS lines (line)
"""
#: What takes out all rows, where there are or were some. Migrations leave none but the version.
_EMPTY = """
SELECT string_agg(format('DELETE FROM %I', relname), ';') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
    AND pg_relation_size(oid) > 0
"""
_RESTART = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) > 0
"""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
#: Who closed a connection, or was killed, is gone by then.
_GONE_WITHIN_S = 0.5


class Databases:
    """The databases of one server, which has a migrated one named `postgres`."""

    def __init__(self, server_url: str) -> None:
        self._server = server_url.removesuffix("/postgres")
        self._numbers = itertools.count(1)
        self._empty: list[str] = []
        self._shape: str | None = None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[str]:
        """Give the URL of a database that is empty, and nobody else's meanwhile."""
        url = self._empty.pop() if self._empty else await self._new()
        yield url
        if await self._emptied(url):
            self._empty.append(url)
        else:
            await self._admin(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    async def _new(self) -> str:
        if self._shape is None:
            # Here, since nobody may be connected to what is copied.
            self._shape = await self._shape_of(f"{self._server}/postgres")
        name = f"test_{next(self._numbers)}"
        await self._admin(f"CREATE DATABASE {name} TEMPLATE postgres")
        return f"{self._server}/{name}"

    async def _emptied(self, url: str) -> bool:
        """Take all rows out of a database; False if that does not make it a new one."""
        try:
            connection = await asyncpg.connect(url)
        except asyncpg.PostgresError:
            return False
        try:
            if not await _left_alone(connection):
                return False
            if await connection.fetchval(_SHAPE) != self._shape:
                return False
            # Some tables may only grow, as far as their triggers can help it.
            await connection.execute("SET session_replication_role = replica")
            if rows := await connection.fetchval(_EMPTY):
                await connection.execute(rows)
            await connection.execute(_RESTART)
            await connection.execute("SELECT pg_stat_reset()")
            return True
        finally:
            await connection.close()

    async def _shape_of(self, url: str) -> str:
        connection = await asyncpg.connect(url)
        try:
            shape: str = await connection.fetchval(_SHAPE)
            return shape
        finally:
            await connection.close()

    async def _admin(self, command: str) -> None:
        connection = await asyncpg.connect(f"{self._server}/template1")
        try:
            await connection.execute(command)
        finally:
            await connection.close()


async def _left_alone(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Say whether nobody else is, or soon will be, connected."""
    try:
        async with asyncio.timeout(_GONE_WITHIN_S):
            while await connection.fetchval(_OTHERS):
                await asyncio.sleep(0.005)
    except TimeoutError:
        return False
    return True
