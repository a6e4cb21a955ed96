"""Serve the metrics of queues and orders to Prometheus: `python -m orderflow.exporter`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Mapping

import asyncpg
import structlog
import typer
from prometheus_client import CollectorRegistry, start_http_server
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orderflow.contract import QueueName
from orderflow.db.pool import BY_KEY
from orderflow.errors import InvalidSettings
from orderflow.invariants import violations
from orderflow.logs import configure_logs
from orderflow.metrics import InvariantCollector, QueueCollector
from orderflow.settings import Settings, load_settings

log = structlog.get_logger(__name__)

#: Less than Prometheus waits for a scrape.
_POSTGRES_PATIENCE_S = 3.0
#: By far more than come between two scrapes.
_ORDERS_LOOKED_AT = 10_000
_REFUSED = (asyncpg.PostgresError, asyncpg.InterfaceError)


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
    registry.register(InvariantCollector(lambda: asyncio.run(_violations(settings))))
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


async def _violations(settings: Settings) -> Mapping[str, int]:
    """Ask on a connection of this scrape: one every few seconds costs nothing that matters.

    Raises OSError for whatever keeps PostgreSQL from answering; its own words may hold a password.
    """
    try:
        async with asyncio.timeout(_POSTGRES_PATIENCE_S):
            connection = await asyncpg.connect(settings.database_dsn, server_settings=BY_KEY)
            try:
                return await violations(connection, settings, _ORDERS_LOOKED_AT)
            finally:
                connection.terminate()
    except (OSError, TimeoutError, ValueError, *_REFUSED) as error:
        log.warning("invariants not checked", reason=type(error).__name__)
        raise OSError(type(error).__name__) from None


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
