"""The composition root: what the use cases need is built here, once, and passed down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypedDict
from urllib.parse import urlsplit

from orderflow.breaker import CircuitBreaker
from orderflow.bull.queues import JobQueues, open_queues
from orderflow.contract import JobName
from orderflow.db import Database, Reads, open_database, replica
from orderflow.db.replica import Replica
from orderflow.gateways import Gateway
from orderflow.gateways.guarded import GuardedGateway
from orderflow.gateways.opening import open_gateway
from orderflow.metrics import breaker_shown
from orderflow.senders import Sender
from orderflow.senders.messages import Templates
from orderflow.senders.opening import open_senders
from orderflow.settings import Settings


class Stores(TypedDict):
    """What every use case of operators works on, as its keyword arguments."""

    db: Database
    queues: JobQueues


class Telling(TypedDict):
    """What customers are told of a kind of message with, as keyword arguments."""

    kind: JobName
    db: Database
    senders: Sequence[Sender]
    templates: Templates
    claim_s: float


@dataclass(frozen=True, slots=True)
class Resources:
    """The open connections and adapters of one process."""

    settings: Settings
    db: Database
    queues: JobQueues
    gateway: Gateway
    senders: tuple[Sender, ...]
    templates: Templates

    @property
    def stores(self) -> Stores:
        """PostgreSQL and Redis."""
        return {"db": self.db, "queues": self.queues}

    def telling(self, kind: JobName) -> Telling:
        """Return what tells customers of this, on the channels that the settings name for it."""
        channels = self.settings.channels_of(kind)
        return {
            "kind": kind,
            "db": self.db,
            "senders": [sender for sender in self.senders if sender.channel in channels],
            "templates": self.templates,
            "claim_s": self.settings.claim_s,
        }


@dataclass(frozen=True, slots=True)
class Outside:
    """Who is beyond our own servers: the one that takes money, those that carry messages."""

    gateway: Gateway
    senders: tuple[Sender, ...]


#: A gateway that stays down is asked again after so many times the first rest.
_LONGEST_REST = 16

#: Opens the outside world that the settings describe; its end closes it.
OpenOutside = Callable[[Settings], AbstractAsyncContextManager[Outside]]


@asynccontextmanager
async def open_outside(settings: Settings) -> AsyncIterator[Outside]:
    """Give the gateway that PAYMENT_GATEWAY names, and the senders of mail and SMS."""
    async with open_gateway(settings) as gateway, open_senders(settings) as senders:
        yield Outside(gateway, senders)


@asynccontextmanager
async def open_resources(
    settings: Settings, outside_of: OpenOutside = open_outside
) -> AsyncIterator[Resources]:
    """Give everything that `settings` describe, closed on leaving.

    Nothing is connected before it is used, so a process starts while a server is away.
    """
    kinds = _kinds(settings)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(
            open_database(
                settings.database_dsn,
                settings.database_pool_size,
                settings.database_timeout_ms,
                kinds.database,
                pooled=settings.database_is_pooled,
            )
        )
        queues = await stack.enter_async_context(open_queues(settings, kinds.queues))
        outside = kinds.outside(await stack.enter_async_context(outside_of(settings)))
        breaker = _breaker(settings)
        stack.enter_context(breaker_shown("gateway", breaker))
        yield Resources(
            settings=settings,
            db=db,
            queues=queues,
            gateway=GuardedGateway(
                outside.gateway,
                urlsplit(settings.gateway_url or "").hostname or settings.payment_gateway,
                breaker,
                partial(queues.tell_of_outage, "gateway"),
            ),
            senders=outside.senders,
            templates=Templates(settings.templates_dir, settings.default_language),
        )


def open_reads(settings: Settings, primary: Database) -> AbstractAsyncContextManager[Reads]:
    """Give what reads at DATABASE_REPLICA_URL, or without one the primary itself."""
    return replica.open_reads(settings, primary, _kinds(settings).replica)


@dataclass(frozen=True, slots=True)
class _Kinds:
    """The classes that do the work."""

    database: type[Database] = Database
    replica: type[Replica] = Replica
    queues: type[JobQueues] = JobQueues
    outside: Callable[[Outside], Outside] = lambda outside: outside


def _kinds(settings: Settings) -> _Kinds:
    """Return the plain classes, or where traces are on those that make spans of what they do."""
    if not settings.is_traced:
        return _Kinds()
    from orderflow.tracing.database import TracedDatabase, TracedReplica
    from orderflow.tracing.outside import TracedGateway, TracedSender
    from orderflow.tracing.queues import TracedQueues

    def traced(outside: Outside) -> Outside:
        return Outside(TracedGateway(outside.gateway), tuple(map(TracedSender, outside.senders)))

    return _Kinds(TracedDatabase, TracedReplica, TracedQueues, traced)


def _breaker(settings: Settings) -> CircuitBreaker:
    rest_s = settings.gateway_breaker_rest_ms / 1000
    return CircuitBreaker(settings.gateway_breaker_failures, rest_s, _LONGEST_REST * rest_s)
