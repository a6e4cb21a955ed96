"""What the doctor looks at in PostgreSQL: the server, the schema, and orders that wait too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from orderflow.doctor.findings import (
    Finding,
    Findings,
    compare_clocks,
    fail,
    numbers_of,
    ok,
    reason_of,
    run_checks,
    unreadable,
    warn,
)
from orderflow.doctor.postgres_way import (
    AWAY,
    PATIENCE_S,
    PostgresSite,
    connect,
    postgres_connections,
    postgres_pooler,
    postgres_primary,
    postgres_replica,
)
from orderflow.invariants import INVARIANTS, violations
from orderflow.settings import Settings

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_OLDEST_POSTGRES = 14
_UNSETTLED_AFTER_S, _UNSETTLED_COUNTED = 600, 1_000
_ORDERS_COMPARED = 100_000
_MIGRATIONS = Path(__file__).parents[1] / "db" / "migrations"


async def postgres_version(site: PostgresSite) -> Findings:
    """Say whether this version is one that orderflow is meant for."""
    version = site.facts["server_version"]
    if numbers_of(version) < (_OLDEST_POSTGRES,):
        return [
            warn(
                "postgres-version",
                f"PostgreSQL {version} is older than {_OLDEST_POSTGRES}",
                f"Upgrade PostgreSQL to {_OLDEST_POSTGRES} or newer",
            )
        ]
    return [ok("postgres-version", f"PostgreSQL {version} answers")]


async def migrations(site: PostgresSite) -> Findings:
    """Compare the schema with the one that this version needs."""
    name = "migrations"
    current, head = await revisions(site.connection)
    if current == head:
        return [ok(name, f"The schema is up to date: {head}")]
    if current is None:
        return [fail(name, "The database has no schema of orderflow yet", "orderflow migrate")]
    known = {script.revision for script in _steps().walk_revisions()}
    if current not in known:
        return [
            fail(
                name,
                f"The schema is at {current}, which this version does not know: it is a newer one",
                "Install the version of orderflow that migrated the database",
            )
        ]
    return [fail(name, f"The schema is at {current} and has to be at {head}", "orderflow migrate")]


def _steps() -> ScriptDirectory:
    # SQLAlchemy comes with it, which takes longer to import than all else that a command needs.
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(_MIGRATIONS))


async def revisions(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str | None, str]:
    """Return the revision of the schema, None where there is none, and that of this version."""
    head = _steps().get_current_head()
    if head is None:
        raise RuntimeError("the package has no migrations")
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None, head
    return await connection.fetchval("SELECT version_num FROM alembic_version"), head


async def postgres_durability(site: PostgresSite) -> Findings:
    """Say whether a commit, and so an answer to a checkout, outlives a crash."""
    findings = [
        warn(
            "postgres-durability",
            f"{setting} is off: {loss}, also of orders that were answered 202",
            f"ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf(); and look for one set for "
            "the database or the role",
        )
        for setting, loss in (
            ("fsync", "a crash of the machine may destroy the database"),
            ("synchronous_commit", "a crash loses the last commits"),
        )
        if site.facts[setting] == "off"
    ]
    return findings or [ok("postgres-durability", "fsync and synchronous_commit are on")]


async def postgres_clock(site: PostgresSite) -> Findings:
    """Compare the clock of PostgreSQL with that of this machine."""

    async def ask() -> float:
        now = await site.connection.fetchval("SELECT clock_timestamp()")
        return float(now.timestamp())

    return await compare_clocks("postgres-clock", "PostgreSQL", ask)


async def unsettled(site: PostgresSite) -> Findings:
    """Count the orders that should have come to their end by now."""
    try:
        count = await site.connection.fetchval(
            """SELECT count(*) FROM (
                   SELECT FROM orders
                   WHERE notified_at IS NULL AND created_at < now() - make_interval(secs => $1)
                   LIMIT $2
               ) late""",
            _UNSETTLED_AFTER_S,
            _UNSETTLED_COUNTED + 1,
        )
    except asyncpg.UndefinedTableError:
        # Without a schema there is no order; `migrations` says so.
        return []
    if not count:
        return [ok("unsettled", "No order is unsettled for over 10 minutes")]
    many = f"Over {_UNSETTLED_COUNTED:,}" if count > _UNSETTLED_COUNTED else str(count)
    return [
        warn(
            "unsettled",
            f"{many} orders are unsettled for over 10 minutes: not paid or not told yet",
            "See that all three workers run, and what they log; "
            "`orderflow reconcile` puts back jobs that were lost",
        )
    ]


async def invariants(site: PostgresSite) -> Findings:
    """Say which of what must hold of all orders does not."""
    name = "invariants"
    try:
        found = await violations(site.connection, site.settings, _ORDERS_COMPARED)
    except asyncpg.UndefinedTableError:
        # Without a schema there is no order; `migrations` says so.
        return []
    return [
        fail(name, f"{count:,} {INVARIANTS[invariant].violated}", INVARIANTS[invariant].fix)
        for invariant, count in found.items()
        if count
    ] or [ok(name, "No order is late, paid and not confirmed, or confirmed and not paid")]


POSTGRES_CHECKS: Sequence[Callable[[PostgresSite], Awaitable[Findings]]] = (
    postgres_version,
    postgres_primary,
    postgres_pooler,
    postgres_connections,
    postgres_replica,
    migrations,
    postgres_durability,
    postgres_clock,
    unsettled,
    invariants,
)


_SETTINGS_LOOKED_AT = (
    *("server_version", "fsync", "synchronous_commit"),
    *("max_connections", "superuser_reserved_connections"),
)


async def examine_postgres(settings: Settings) -> Findings:
    """Run every check of PostgreSQL and return what each found, in order."""
    findings: Findings = []
    try:
        connection = await connect(settings.database_dsn)
    except ValueError:
        # Its words may be a part of the password.
        return [unreadable("postgres", "DATABASE_URL")]
    except (*AWAY, asyncpg.PostgresError) as error:
        return [_postgres_away(error)]
    try:
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])",
            _SETTINGS_LOOKED_AT,
        )
        facts = {row["name"]: row["setting"] for row in rows}
        site = PostgresSite(connection, facts, settings)
        await run_checks(POSTGRES_CHECKS, site, AWAY, asyncpg.PostgresError, findings)
    except (*AWAY, asyncpg.PostgresError) as error:
        findings.append(_postgres_away(error))
    finally:
        with suppress(*AWAY):
            await connection.close(timeout=PATIENCE_S)
    return findings


def _postgres_away(error: Exception) -> Finding:
    return fail(
        "postgres",
        f"PostgreSQL cannot be used: {reason_of(error)}",
        "Start PostgreSQL, or set DATABASE_URL",
    )
