"""Serve the queue metrics to Prometheus: `python -m orderflow.exporter`."""

from __future__ import annotations

import signal
import threading

import structlog
import typer
from prometheus_client import CollectorRegistry, start_http_server
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orderflow.contract import QueueName
from orderflow.errors import InvalidSettings
from orderflow.logs import configure_logs
from orderflow.metrics import QueueCollector
from orderflow.settings import Settings, load_settings

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Answer scrapes on EXPORTER_HOST:EXPORTER_PORT until SIGTERM or SIGINT.

    Raises OSError if the port is taken.
    """
    timeout_s = settings.redis_timeout_ms / 1000
    client = Redis.from_url(
        settings.redis_dsn,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        QueueCollector(client, settings.queue_prefix, [queue.value for queue in QueueName])
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server, thread = start_http_server(
        settings.exporter_port, settings.exporter_host, registry=registry
    )
    log.info("exporter started", host=settings.exporter_host, port=settings.exporter_port)
    stop.wait()
    server.shutdown()
    server.server_close()
    thread.join()
    client.close()
    log.info("exporter stopped")


def run() -> None:
    """Run the exporter. Exit status: 0 stopped, 2 a wrong setting or a port that is taken."""
    try:
        settings = load_settings()
    except InvalidSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    configure_logs(settings.log_format, settings.log_level)
    try:
        serve(settings)
    except OSError as error:
        typer.echo(
            f"EXPORTER_PORT: cannot listen on {settings.exporter_host}:{settings.exporter_port}: "
            f"{error.strerror}",
            err=True,
        )
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(run)
