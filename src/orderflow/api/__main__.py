"""Serve the API: `python -m orderflow.api`."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from typing import Annotated

import typer
import uvicorn

from orderflow.api.auth import check_authentication
from orderflow.errors import InvalidSettings, MetricsNotServed
from orderflow.logs import configure_logs
from orderflow.metrics.serving import serve_processes
from orderflow.settings import Settings, load_settings


def serve(
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics; METRICS_PORT otherwise.")
    ] = None,
) -> None:
    """Serve the API on HOST and PORT with WEB_CONCURRENCY processes, until SIGTERM or Ctrl-C.

    Exit status: 0 stopped, 1 the port cannot be used, 2 a wrong setting.
    """
    # First, since process 1 of a container hears no signal that it has no handler for. uvicorn
    # drains, and then raises the signal that it caught once more: a stop is no fault.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = load_settings(metrics_port=metrics_port)
        check_authentication(settings)
    except InvalidSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    configure_logs(settings.log_format, settings.log_level)
    _check_port("HOST {}, PORT {}", settings.host, settings.port)
    if settings.metrics_port is not None:
        _check_port(
            "METRICS_HOST {}, METRICS_PORT {}", settings.metrics_host, settings.metrics_port
        )
    if metrics_port is not None:
        # Each process makes its own app, and reads the settings for that.
        os.environ["METRICS_PORT"] = str(metrics_port)
    many = settings.web_concurrency > 1
    try:
        with serve_processes(settings.metrics_address if many else None):
            _run(settings)
    except MetricsNotServed as error:
        typer.echo(f"METRICS_PORT: {error}", err=True)
        raise typer.Exit(1) from None


def _run(settings: Settings) -> None:
    uvicorn.run(
        # By name, since each process makes its own app, and sets up its own logs.
        "orderflow.api.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        loop="uvloop",
        http="orderflow.api.protocol:Protocol",
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=settings.forwarded_allow_ips is not None,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_ms / 1000),
    )


def _check_port(settings: str, host: str, port: int) -> None:
    """Exit with one plain line if the port is taken, before uvicorn says it in several."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # It does not listen: whoever waits for the port would take it for the server.
            probe.bind((host, port))
    except OSError as error:
        where = settings.format(host, port)
        typer.echo(f"cannot listen on {where}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(serve)
