"""Serve the metrics of queues and orders to Prometheus: `python -m orderflow.exporter`."""

from __future__ import annotations

import asyncio
import signal
from functools import partial

import structlog
import typer
import uvloop
from prometheus_client.core import Metric

from orderflow import metrics
from orderflow.bull.queues import JobQueues, open_queues
from orderflow.db import open_database
from orderflow.db.replica import open_reads
from orderflow.errors import InvalidSettings, PortTaken
from orderflow.exporter.orders import OrderMetrics
from orderflow.exporter.queues import redis_metrics
from orderflow.logs import configure_logs
from orderflow.metrics.serving import from_loop, serve_scrapes
from orderflow.settings import Settings, load_settings

log = structlog.get_logger(__name__)

#: Less than Prometheus waits for a scrape. A server that is slow is not away, which customers, for
#: whom the settings are, may not wait for.
_PATIENCE_MS = 3_000
#: One for each of the questions of a scrape.
_CONNECTIONS = 2


async def serve(settings: Settings) -> None:
    """Answer scrapes on EXPORTER_HOST:EXPORTER_PORT until SIGTERM or SIGINT. Raises PortTaken."""
    settings = settings.model_copy(
        update={
            "redis_timeout_ms": max(settings.redis_timeout_ms, _PATIENCE_MS),
            "database_timeout_ms": max(settings.database_timeout_ms, _PATIENCE_MS),
        }
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        open_queues(settings) as queues,
        open_database(
            settings.database_dsn,
            _CONNECTIONS,
            settings.database_timeout_ms,
            pooled=settings.database_is_pooled,
        ) as db,
        open_reads(settings, db) as reads,
    ):
        collect = from_loop(partial(_ask, queues, OrderMetrics(reads, settings), settings))
        with serve_scrapes((settings.exporter_host, settings.exporter_port), collect):
            log.info("exporter started", host=settings.exporter_host, port=settings.exporter_port)
            await stop.wait()
    log.info("exporter stopped")


async def _ask(queues: JobQueues, orders: OrderMetrics, settings: Settings) -> list[Metric]:
    of_redis, of_postgres = await asyncio.gather(
        redis_metrics(queues, settings.priorities), orders.collect()
    )
    of_replica = () if settings.database_replica_dsn is None else metrics.of_replica()
    return [*of_redis, *of_postgres, *of_replica, metrics.BUILD.collect()]


def run() -> None:
    """Tell Prometheus of queues and orders on EXPORTER_HOST:EXPORTER_PORT, until SIGTERM or Ctrl-C.

    Exit status: 0 stopped, 2 a wrong setting, or a port that is taken.
    """
    try:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
        uvloop.run(serve(settings))
    except InvalidSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except PortTaken as error:
        typer.echo(f"EXPORTER_PORT: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(run)
