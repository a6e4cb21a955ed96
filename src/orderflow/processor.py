"""The path of one job through a worker: find its handler, read its data, run it, name its end.

A worker file makes a `QueueWorker` and says which of its functions handles which job. What an
error means to BullMQ is decided here and nowhere else: a request that can never work ends the
job at once, anything else is an attempt that BullMQ retries with its backoff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from bullmq import UnrecoverableError
from pydantic import BaseModel

from orderflow.bull.ending import Postponed
from orderflow.bull.queues import Schedule
from orderflow.bull.taking import is_cancelled_from_outside
from orderflow.bull.worker import Delivery
from orderflow.contract import read_payload
from orderflow.errors import (
    AmountMismatch,
    EventNotFound,
    GatewayRefused,
    GatewayResting,
    InvalidPayload,
    JobTimedOut,
    MethodMismatch,
    OrderflowError,
    OrderNotFound,
    RefundNotFound,
    RefundUnsettled,
    SenderBusy,
    UnknownJob,
    WrongOrder,
)
from orderflow.logs import log_context
from orderflow.resources import Resources
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

#: Trying again cannot help these.
FATAL: tuple[type[OrderflowError], ...] = (
    AmountMismatch,
    EventNotFound,
    GatewayRefused,
    InvalidPayload,
    MethodMismatch,
    OrderNotFound,
    RefundNotFound,
    UnknownJob,
    WrongOrder,
)

P = TypeVar("P", bound=BaseModel)
Result = dict[str, Any]
Handler = Callable[[P, Resources], Awaitable[Result]]
#: What runs beside the jobs until its event is set, and ends in good time then.
Beside = Callable[[Resources, asyncio.Event], Coroutine[Any, Any, None]]


class JobInterrupted(Exception):
    """The handler was cancelled from within; the job is tried again."""


@dataclass(frozen=True, slots=True)
class _Route:
    payload: type[BaseModel]
    handler: Handler[Any]
    timeout_ms: int | None


@dataclass
class QueueWorker:
    """What a worker file defines: its queue, its handlers by job name, and its schedules.

    `concurrency` is how many jobs one process runs at once unless the command line says
    otherwise. `schedules` names the jobs that come back by themselves, from the settings. `beside`
    is what each process does besides; an error that it raises ends the process.
    """

    queue: str
    concurrency: int
    schedules: Callable[[Settings], tuple[Schedule, ...]] = lambda _settings: ()
    beside: Sequence[Beside] = ()
    _routes: dict[str, _Route] = field(default_factory=dict)

    def handles(
        self, job_name: str, payload: type[P], *, timeout_ms: int | None = None
    ) -> Callable[[Handler[P]], Handler[P]]:
        """Register the decorated function for jobs of that name, with their data as `payload`.

        A run that takes longer than `timeout_ms`, or else JOB_TIMEOUT_MS, is cancelled and is a
        failed attempt.
        """

        def register(handler: Handler[P]) -> Handler[P]:
            self._routes[job_name] = _Route(payload, handler, timeout_ms)
            return handler

        return register

    async def process(self, delivery: Delivery, resources: Resources) -> Result:
        """Run one delivery to its result.

        Raises bullmq.UnrecoverableError where trying again cannot help, Postponed where it has
        to wait at no cost of an attempt, or else the error of the attempt; its message is never
        empty, since it is all that a person will see.
        """
        with log_context(_log_context(delivery)):
            try:
                return await self._run(delivery, resources)
            except (GatewayResting, RefundUnsettled, SenderBusy) as error:
                log.debug("job postponed", reason=str(error))
                raise Postponed(error.retry_after_s) from error
            except FATAL as error:
                log.warning("job refused", reason=str(error))
                raise UnrecoverableError(str(error)) from error
            except asyncio.CancelledError as error:
                if is_cancelled_from_outside():
                    raise
                raise JobInterrupted("the handler was cancelled from within") from error
            except Exception as error:
                log.warning("attempt failed", reason=str(error), error=type(error).__name__)
                if not str(error):
                    raise RuntimeError(type(error).__name__) from error
                raise

    async def _run(self, delivery: Delivery, resources: Resources) -> Result:
        route = self._route(delivery)
        payload = read_payload(delivery.name, delivery.data, route.payload)
        limit_ms = route.timeout_ms or resources.settings.job_timeout_ms
        limit = asyncio.timeout(limit_ms / 1000)
        try:
            async with limit:
                return await route.handler(payload, resources)
        except TimeoutError as error:
            if limit.expired():
                raise JobTimedOut(job_name=delivery.name, limit_ms=limit_ms) from error
            raise

    def _route(self, delivery: Delivery) -> _Route:
        """Find the handler by the job's name, or as old producers name it, by `data.type`."""
        named = [delivery.name]
        if isinstance(delivery.data, Mapping) and isinstance(delivery.data.get("type"), str):
            named.append(delivery.data["type"])
        for name in named:
            if name in self._routes:
                return self._routes[name]
        raise UnknownJob(queue=self.queue, job_name=delivery.name, known=sorted(self._routes))


def _log_context(delivery: Delivery) -> dict[str, Any]:
    context: dict[str, Any] = {
        "queue": delivery.queue,
        "job_id": delivery.job_id,
        "job_name": delivery.name,
        "attempt": delivery.attempt,
    }
    if delivery.trace_id is not None:
        context["trace_id"] = delivery.trace_id
    if isinstance(delivery.data, Mapping):
        ids = {"order_id": "orderId", "payment_id": "paymentId"}
        context |= {name: delivery.data[key] for name, key in ids.items() if key in delivery.data}
    return context
