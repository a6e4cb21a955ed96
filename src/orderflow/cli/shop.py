"""Commands about the shop: its schema, catalogue and reconciler, what is wrong, and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orderflow.cli.running import checked, fail, run
from orderflow.contract import QueueName
from orderflow.doctor import EXIT_STATUS, Finding, Severity, examine, worst
from orderflow.logs import configure_logs
from orderflow.products import load_products, read_catalogue
from orderflow.reconcile import Planned, Rules, make_plan, run_once
from orderflow.resources import open_resources
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings, load_settings


def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date."""
    # It brings SQLAlchemy with it, which takes longer to import than all the rest.
    from orderflow.db.migrate import migrate as migrate_database

    settings = checked(load_settings)
    before, after = run(migrate_database(settings.database_dsn))
    if before == after:
        typer.echo(f"the schema is up to date: {after}")
    else:
        typer.echo(f"the schema went from {before or 'nothing'} to {after}")


def products_load(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="CSV: sku,name,price,currency,stock (empty: uncounted)",
        ),
    ],
) -> None:
    """Write the products of FILE into the shop, over those with the same sku."""

    async def load() -> int:
        products = read_catalogue(file)
        async with open_resources(load_settings()) as resources:
            return await load_products(products, resources.db)

    typer.echo(f"{run(load())} products written")


def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: say what a run would do, and why.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="Orders that --dry-run tells of, at most.")
    ] = 100,
) -> None:
    """Do one run of the reconciler now: put back lost jobs, write outcomes, cancel what is over."""
    settings = checked(lambda: load_settings(log_format="console"))
    configure_logs(settings.log_format, settings.log_level)
    if dry_run:
        run(_tell_plan(settings, limit))
    else:
        typer.echo(json.dumps(run(_reconcile_now(settings))))


async def _reconcile_now(settings: Settings) -> dict[str, int]:
    async with open_resources(settings) as resources:
        counts = await run_once(
            db=resources.db,
            queues=resources.queues,
            gateway=resources.gateway,
            grace_ms=settings.reconcile_grace_ms,
            rules=Rules.from_settings(settings),
        )
    return counts.to_json()


async def _tell_plan(settings: Settings, limit: int) -> None:
    told = 0

    def tell(planned: Planned) -> None:
        nonlocal told
        told += 1
        if told <= limit:
            typer.echo(str(planned))

    async with open_resources(settings) as resources:
        plan = await make_plan(
            tell,
            db=resources.db,
            queues=resources.queues,
            gateway=resources.gateway,
            grace_ms=settings.reconcile_grace_ms,
            rules=Rules.from_settings(settings),
        )
        rooms = {
            queue: await resources.queues.room(queue)
            for whole in (QueueName.PAYMENTS, QueueName.NOTIFICATIONS)
            for queue in settings.queue_names.shards_of(whole)
        }
    if told > limit:
        typer.echo(f"… and {told - limit:,} more")
    sums = [f"{action} {count:,}" for action, count in sorted(plan.actions.items())]
    typer.echo(f"{plan.unsettled:,} unsettled orders: {', '.join(sums) or 'nothing to do'}")
    typer.echo("room for jobs: " + ", ".join(f"{queue} {room:,}" for queue, room in rooms.items()))


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is wrong or risky about Redis, PostgreSQL and the queues. Changes nothing.

    Exit status: 0 all is well, 1 there are warnings, 2 there are errors or wrong settings.
    """
    settings = checked(load_settings)
    # What is logged meanwhile is among the findings, and in their words.
    configure_logs("console", "error")
    findings = run(examine(settings))
    status = worst(findings)
    if as_json:
        found = [finding.to_json() for finding in findings]
        typer.echo(json.dumps({"status": status, "findings": found}, indent=2))
    else:
        typer.echo("\n".join(map(_told, findings)))
    raise typer.Exit(EXIT_STATUS[status])


def _told(finding: Finding) -> str:
    mark = "ok" if finding.severity is Severity.OK else finding.severity.upper()
    told = f"{mark:<9}{finding.check:<21}{finding.message}"
    return f"{told}\n{'':<9}fix: {finding.fix}" if finding.fix else told


def token(
    user: Annotated[str, typer.Option(help="The user's id, as `sub`.")],
    admin: Annotated[bool, typer.Option("--admin", help="Give the role admin.")] = False,
    ttl_s: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3_600,
) -> None:
    """Print a bearer token signed with JWT_SECRET, for development and tests."""
    settings = checked(load_settings)
    if settings.jwt_secret is None:
        fail("JWT_SECRET: must be set, to sign with")
    typer.echo(make_token(settings.jwt_secret.get_secret_value(), user, admin=admin, ttl_s=ttl_s))
