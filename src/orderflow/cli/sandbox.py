"""Commands that run everything on this machine: to try it, to load it, and to break it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orderflow.cli.running import checked, fail


def up(
    once: Annotated[
        bool, typer.Option("--once", help="End after the first order is paid and mailed.")
    ] = False,
    data: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".orderflow"),
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Have the machine's own Prometheus watch it.")
    ] = False,
    scale: Annotated[
        str, typer.Option(help="Processes of the API or a worker, as payment=5,notification=3.")
    ] = "",
) -> None:
    """Run everything on this machine: servers, sandbox gateway and mail, API, workers, exporter.

    Needs the extra `sandbox`. REDIS_URL or REDIS_HOST, and DATABASE_URL, where
    set, are used instead of servers of its own. Ctrl-C ends it and all it started.
    """
    try:
        from orderflow.sandbox.up import run_stack
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing: pip install 'orderflow[sandbox]'")
    status = run_stack(data.absolute(), once=once, monitoring=monitoring, scale=scale)
    raise typer.Exit(status)


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
        typer.Option(
            min=1, max=64, help="Processes of the payment and of the notification worker, each."
        ),
    ] = 1,
) -> None:
    """Carry millions of orders over the real path on this machine, and count every one.

    Needs the extra `rehearsal`. It starts servers, workers and customers of its
    own; no money and no mail leaves the machine. Ctrl-C ends it, and --resume
    goes on.

    Exit status: 0 everything holds, 1 something does not, 2 refused, 130 interrupted.
    """
    try:
        from orderflow.sandbox.rehearsal.run import run_rehearsal
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing: pip install 'orderflow[rehearsal]'")
    status = run_rehearsal(folder.absolute(), orders, resume=resume, processes=processes)
    raise typer.Exit(status)


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

    Needs the extra `rehearsal`. It starts servers and processes of its own, on
    your settings but for the addresses; no money and no mail leaves the machine.

    Exit status: 0 everything holds, 1 something does not, 2 refused, 130 interrupted.
    """
    try:
        from orderflow.sandbox.chaos.run import Plan, list_scenarios, run_chaos
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing: pip install 'orderflow[rehearsal]'")
    if list_them:
        typer.echo("\n".join(list_scenarios()))
        return
    plan = Plan(scenario or (), runs, orders, seed, folder and folder.absolute())
    raise typer.Exit(checked(lambda: run_chaos(plan)))
