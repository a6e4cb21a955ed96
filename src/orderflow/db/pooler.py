"""A pooler between us and PostgreSQL, as PgBouncer: how it is found out, and what is said of it.

In transaction mode it gives each transaction whatever session is free. What is prepared or set in
one is then missing in the next, or is another client's of the same name: a statement might run in
another's place. So unless DATABASE_POOLER says that a pooler is there, none is worked through.
"""

from __future__ import annotations

import asyncpg

#: Why a connection is not used, in words that say the way out.
SHARED_SESSION = "a pooler is in between: set DATABASE_POOLER=transaction"


class SharedSession(Exception):
    """The connection's session is not its own."""


async def is_pooled(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Say whether who answers passes statements on to another: it has another process id.

    The text of the query is all that is sent, so that a pooler of any mode can do it.
    """
    try:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return True
    return bool(pid != connection.get_server_pid())


async def refuse_shared_session(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raise SharedSession if a pooler is in between."""
    if await is_pooled(connection):
        raise SharedSession
