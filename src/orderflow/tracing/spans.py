"""One span, and its context as a job carries it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

#: The context of the W3C and nothing else: what baggage a client sends would end in Redis.
W3C = TraceContextTextMapPropagator()

_tracer = trace.get_tracer("orderflow")


@contextmanager
def span(
    name: str,
    kind: SpanKind,
    attributes: Attributes = None,
    *,
    parent: Context | None = None,
    links: Sequence[Link] = (),
    unharmed_by: type[Exception] | tuple[()] = (),
) -> Iterator[Span]:
    """Make a span of what runs inside; without a `parent` it is a child of the one around it.

    An error that comes out is told by its type alone, since its words may hold what is nobody's
    business; one of `unharmed_by` is none.
    """
    with _tracer.start_as_current_span(
        name,
        parent,
        kind,
        attributes,
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except unharmed_by:
            raise
        except BaseException as error:
            mark_failed(made, type(error).__name__)
            raise


def mark_failed(made: Span, error_type: str) -> None:
    """Say that what the span is about went wrong, and what kind of error that was."""
    made.set_attribute("error.type", error_type)
    made.set_status(Status(StatusCode.ERROR))


def trace_id_of(made: Span) -> str:
    """Return the trace's id as logs and collectors write it."""
    return format_trace_id(made.get_span_context().trace_id)


def context_of(carrier: str | None) -> Context:
    """Return the context that a job carries, or one without a span for a trace of its own."""
    return W3C.extract(json.loads(carrier) if carrier else {}, Context())


def carrier_here(came_with: str | None) -> str | None:
    """Return the current span's context as a job carries it.

    Whatever else the job at hand `came_with` goes on with it.
    """
    fields: dict[str, str] = json.loads(came_with) if came_with else {}
    W3C.inject(fields)
    return json.dumps(fields) if fields else None
