"""Servers that ask for a password, as those of a shop do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg


async def ask_for_a_password(database_url: str, user: str, password: str) -> None:
    """Make a user of PostgreSQL who is let in only with the password, and can do all then."""
    connection = await asyncpg.connect(database_url)
    try:
        if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", user):
            return
        await connection.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
        _add_rule(Path(await connection.fetchval("SHOW hba_file")), user)
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
    async with asyncio.timeout(10):
        while await _any_password_will_do(database_url, user):
            await asyncio.sleep(0.01)


def _add_rule(rules: Path, user: str) -> None:
    # The first rule that fits is the one that counts.
    rules.write_text(f"host all {user} 127.0.0.1/32 scram-sha-256\n" + rules.read_text())


async def _any_password_will_do(database_url: str, user: str) -> bool:
    """Say whether the rules have not been read again yet."""
    try:
        connection = await asyncpg.connect(database_url, user=user, password="any")
    except asyncpg.InvalidPasswordError:
        return False
    await connection.close()
    return True
