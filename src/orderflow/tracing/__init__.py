"""Traces: one from the request over PostgreSQL, Redis and both workers to the mail.

They are off unless OTEL_EXPORTER_OTLP_ENDPOINT is set, and cost nothing then: the classes that make
spans stand in for the plain ones where resources are built, and nothing here but this module is
imported before. A span says what was done and how it ended, by names, ids and the types of errors;
what an error says, an address or a token never gets into one.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orderflow import __version__
from orderflow.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

#: What the last spans may take to be sent: a collector that is away must not hold up an end.
_FLUSH_AT_MOST_S = 3.0


@contextmanager
def open_tracing(settings: Settings, program: str) -> Iterator[None]:
    """Send the spans that are made inside to OTEL_EXPORTER_OTLP_ENDPOINT, where that is set.

    `program` is the name of the service unless OTEL_SERVICE_NAME says another. The last spans are
    sent on leaving, within a few seconds or not at all.
    """
    if not settings.is_traced:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(
        endpoint=f"{str(settings.otel_exporter_otlp_endpoint).rstrip('/')}/v1/traces",
        headers=settings.otlp_headers,
    )
    service = {
        "service.name": settings.otel_service_name or f"orderflow-{program}",
        "service.version": __version__,
        # As a worker calls itself in each of its jobs.
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
    }
    provider = TracerProvider(_sampler(settings), Resource.create(service), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    # For handlers of one's own too: their spans find the job's.
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_AT_MOST_S)


def _sampler(settings: Settings) -> Sampler:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased as Ratio

    name = settings.otel_traces_sampler
    roots: dict[str, Sampler] = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": Ratio(settings.otel_traces_sampler_arg),
    }
    root = roots[name.removeprefix("parentbased_")]
    return ParentBased(root) if name.startswith("parentbased_") else root
