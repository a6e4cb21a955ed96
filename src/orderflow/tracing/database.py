"""Spans of statements, where one statement is run for many."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import asyncpg
from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanKind

from orderflow.db.pool import Database
from orderflow.db.reads import Args
from orderflow.db.replica import Replica
from orderflow.tracing.spans import span

#: Where a batch leaves the links for the span of its statement.
_LINKS = context.create_key("orderflow-batch")


class TracedDatabase(Database):
    """Makes a span of each statement that a request or a job asks for, by its name.

    What goes in a batch has two: `await NAME` in the trace of each who asked, which is the wait for
    the batch before it as well, and one of the statement that was run for all of them. That one
    links to all who asked, and is in the trace of the first of them that is sampled.
    """

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        with _statement(query):
            return await super().fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run the named query and return its first row, or None."""
        with _statement(query):
            return await super().fetchrow(query, *args)

    async def batch(
        self, query: str, *args: Any, same: tuple[Any, ...] = (), apart: Hashable = None
    ) -> asyncpg.Record | None:
        """Run the named query together with whoever asks for it now; return this call's row."""
        with _waiting(query) as asker:
            apart = args[0] if apart is None else apart
            # The span goes with the call's arguments, and is taken off before the statement.
            return await super().batch(query, *args, asker, same=same, apart=apart)

    async def _batch(
        self, query: str, same: tuple[Any, ...], calls: Sequence[Args]
    ) -> Sequence[asyncpg.Record | None]:
        with _asked_by([call[-1] for call in calls]):
            return await super()._batch(query, same, [call[:-1] for call in calls])


class TracedReplica(Replica):
    """Makes a span of each statement that is run at a replica, with the wait for it to be there."""

    async def fetch_at(
        self, position: str, patience_s: float, query: str, *args: Any
    ) -> list[asyncpg.Record]:
        """Run the named query once all up to `position` is replayed, and return its rows."""
        with _statement(query):
            return await super().fetch_at(position, patience_s, query, *args)


def _waiting(query: str) -> AbstractContextManager[Span]:
    return span(f"await {query}", SpanKind.INTERNAL) if _is_asked() else nullcontext(INVALID_SPAN)


def _statement(query: str) -> AbstractContextManager[Span]:
    if not _is_asked():
        return nullcontext(INVALID_SPAN)
    links: Sequence[Link] = context.get_value(_LINKS) or ()  # type: ignore[assignment]
    attributes: dict[str, Any] = {"db.system.name": "postgresql", "db.query.summary": query}
    if len(links) > 1:
        attributes["db.operation.batch.size"] = len(links)
    name = f"BATCH {query}" if len(links) > 1 else query
    return span(name, SpanKind.CLIENT, attributes, links=links)


def _is_asked() -> bool:
    """Say whether a request or a job asks: what runs beside them would be traces of one span."""
    return trace.get_current_span().get_span_context().is_valid


@contextmanager
def _asked_by(askers: Sequence[Span]) -> Iterator[None]:
    """Make the next statement that of all `askers`."""
    contexts = [asker.get_span_context() for asker in askers]
    valid = [asked for asked in contexts if asked.is_valid]
    if not valid:
        yield
        return
    first = next((asked for asked in valid if asked.trace_flags.sampled), valid[0])
    around = trace.set_span_in_context(NonRecordingSpan(first), context.Context())
    token = context.attach(context.set_value(_LINKS, [Link(asked) for asked in valid], around))
    try:
        yield
    finally:
        context.detach(token)
