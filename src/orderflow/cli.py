"""The command line: `orderflow …`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from redis.exceptions import RedisError

from orderflow import __version__
from orderflow.contract import QueueName
from orderflow.db.migrate import migrate as migrate_database
from orderflow.doctor import EXIT_STATUS, Finding, Severity, examine, worst
from orderflow.errors import OrderflowError
from orderflow.logs import configure_logs
from orderflow.products import load_products, read_catalogue
from orderflow.reconcile import Planned, Rules, make_plan, run_once
from orderflow.resources import open_resources
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings, load_settings

T = TypeVar("T")

app = typer.Typer(
    help="Order processing: every checkout is carried to its end.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
products_app = typer.Typer(help="The catalogue.", no_args_is_help=True)
app.add_typer(products_app, name="products")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date."""
    settings = _checked(load_settings)
    before, after = _run(migrate_database(settings.database_dsn))
    if before == after:
        typer.echo(f"the schema is up to date: {after}")
    else:
        typer.echo(f"the schema went from {before or 'nothing'} to {after}")


@products_app.command("load")
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

    typer.echo(f"{_run(load())} products written")


@app.command()
def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: say what a run would do, and why.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="Orders that --dry-run tells of, at most.")
    ] = 100,
) -> None:
    """Do one run of the reconciler now: put back lost jobs, write outcomes, cancel what is over."""
    settings = _checked(lambda: load_settings(log_format="console"))
    configure_logs(settings.log_format, settings.log_level)
    if dry_run:
        _run(_tell_plan(settings, limit))
    else:
        typer.echo(json.dumps(_run(_reconcile_now(settings))))


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
            for queue in (QueueName.PAYMENTS, QueueName.NOTIFICATIONS)
        }
    if told > limit:
        typer.echo(f"… and {told - limit:,} more")
    sums = [f"{action} {count:,}" for action, count in sorted(plan.actions.items())]
    typer.echo(f"{plan.unsettled:,} unsettled orders: {', '.join(sums) or 'nothing to do'}")
    typer.echo("room for jobs: " + ", ".join(f"{queue} {room:,}" for queue, room in rooms.items()))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is wrong or risky about Redis, PostgreSQL and the queues. Changes nothing.

    Exit status: 0 all is well, 1 there are warnings, 2 there are errors or wrong settings.
    """
    settings = _checked(load_settings)
    findings = _run(examine(settings))
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


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user's id, as `sub`.")],
    admin: Annotated[bool, typer.Option("--admin", help="Give the role admin.")] = False,
    ttl_s: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3_600,
) -> None:
    """Print a bearer token signed with JWT_SECRET, for development and tests."""
    settings = _checked(load_settings)
    if settings.jwt_secret is None:
        _fail("JWT_SECRET: is not set, so there is nothing to sign with")
    typer.echo(make_token(settings.jwt_secret.get_secret_value(), user, admin=admin, ttl_s=ttl_s))


@app.command()
def up(
    once: Annotated[
        bool, typer.Option("--once", help="End after the first order is paid and mailed.")
    ] = False,
    data: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".orderflow"),
) -> None:
    """Run everything on this machine: servers, sandbox gateway and mail, API, workers, exporter.

    Needs the extra `sandbox`. REDIS_URL or REDIS_HOST, and DATABASE_URL, where
    set, are used instead of servers of its own. Ctrl-C ends it and all it started.
    """
    try:
        from orderflow.sandbox.up import run_stack
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'orderflow[sandbox]'")
    raise typer.Exit(run_stack(data.absolute(), once=once))


@app.command()
def rehearse(
    orders: Annotated[
        int | None,
        typer.Option(min=1, help="How many orders to carry.", show_default="5000000"),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where data, logs and the report are kept.")] = Path(
        ".orderflow/rehearsal"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the rehearsal that is in the folder.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, max=64, help="Processes of each of the payment and mail workers."),
    ] = 1,
) -> None:
    """Carry millions of orders over the real path on this machine, and count every one.

    Needs the extra `rehearsal`. It starts servers, workers and customers of its own; no money and
    no mail leaves the machine. Ctrl-C ends it, and --resume goes on.

    Exit status: 0 everything holds, 1 something does not, 2 refused, 130 interrupted.
    """
    try:
        from orderflow.sandbox.rehearsal.run import run_rehearsal
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'orderflow[rehearsal]'")
    status = run_rehearsal(folder.absolute(), orders, resume=resume, processes=processes)
    raise typer.Exit(status)


@app.command()
def chaos(
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given again. --list names all.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each scenario is run.")] = 1,
    orders: Annotated[int, typer.Option(min=1, help="How many orders a run has at least.")] = 200,
    seed: Annotated[
        int | None, typer.Option(help="What the random moments follow from.", show_default="random")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A new folder that data and logs are left in.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Name the scenarios and end.")] = False,
) -> None:
    """Break a running shop in all ways there are, and say what was lost or done twice.

    Needs the extra `rehearsal`. It starts servers and processes of its own, on your settings but
    for the addresses; no money and no mail leaves the machine.

    Exit status: 0 everything holds, 1 something does not, 2 refused, 130 interrupted.
    """
    try:
        from orderflow.sandbox.chaos.run import Plan, list_scenarios, run_chaos
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'orderflow[rehearsal]'")
    if list_them:
        typer.echo("\n".join(list_scenarios()))
        return
    plan = Plan(scenario or (), runs, orders, seed, folder and folder.absolute())
    raise typer.Exit(_checked(lambda: run_chaos(plan)))


def _run(work: Coroutine[Any, Any, T]) -> T:
    return _checked(lambda: asyncio.run(work))


def _checked(call: Callable[[], T]) -> T:
    """Run `call`; an error that a person can mend is told in one line, with exit status 2."""
    try:
        return call()
    except OrderflowError as error:
        _fail(str(error))
    except (RedisError, OSError) as error:
        _fail(f"{type(error).__name__}: {error}")


def _fail(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
