"""Events: what a gateway tells by itself is kept before it is answered, and then done by a job.

They come twice, late, and in any order. So each is kept once, and only one that says that money
was taken is believed, since that is final; on any other the gateway is asked how the charge is now.
One about a payment that is not known here is kept until the payment is, or a person has looked.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.charge import charge_of, settle_payment
from orderflow.contract import GatewayEventJob, gateway_event_job, row_id
from orderflow.db import Database
from orderflow.errors import EventNotFound
from orderflow.gateways import Approved, Declined, Gateway, GatewayEvent
from orderflow.orders import OPEN_PAYMENT, Payment, PaymentStatus, Row

log = structlog.get_logger(__name__)

#: Events that one run of the reconciler looks at, and forgets, at most.
_AT_ONCE = 1_000
#: Gateways send an event again for days at most.
_KEPT_DAYS = 30


class Done(StrEnum):
    """What came of an event."""

    SETTLED = "payment settled"
    NOTHING = "nothing to do"
    UNKNOWN = "unknown payment"


async def take_event(event: GatewayEvent, gateway: str, *, db: Database, queues: JobQueues) -> bool:
    """Keep an event, and have it looked at; False for one that was kept before, or is not ours.

    Raises DatabaseUnavailable: then the gateway has to send it again.
    """
    if event.key is None:
        return False
    kept = await db.fetchrow(
        "keep_event",
        gateway,
        event.id,
        event.type,
        row_id(event.key),
        event.paid.transaction_id if event.paid else None,
        event.happened_at,
    )
    if kept is None:
        return False
    log.info("event taken", gateway=gateway, event_id=event.id, event_type=event.type)
    await queues.offer(gateway_event_job(gateway, event.id))
    return True


async def handle_event(
    job: GatewayEventJob, *, db: Database, gateway: Gateway, queues: JobQueues
) -> dict[str, Any]:
    """Do what the job's event asks for, once; return `{success, done}`.

    Raises GatewayUnavailable where the gateway has to be asked and gives no answer, and
    EventNotFound.
    """
    event = await db.fetchrow("find_event", job.gateway, job.event_id)
    if event is None:
        raise EventNotFound(gateway=job.gateway, event_id=job.event_id)
    if event["handled"]:
        return {"success": True, "done": event["done"]}
    row = await db.fetchrow("find_payment", event["payment_id"])
    if row is None:
        done = Done.UNKNOWN
        log.warning("event of an unknown payment", event_id=job.event_id, event_type=event["type"])
    else:
        done = await _done(event, Payment.from_row(row), db, gateway, queues)
    await db.fetchrow("end_event", job.gateway, job.event_id, done.value, done is not Done.UNKNOWN)
    return {"success": done is not Done.UNKNOWN, "done": done.value}


async def _done(
    event: Row, payment: Payment, db: Database, gateway: Gateway, queues: JobQueues
) -> Done:
    outcome: object = None
    if event["paid_transaction_id"] is not None:
        outcome = Approved(event["paid_transaction_id"])
        if payment.status not in OPEN_PAYMENT and payment.transaction_id == outcome.transaction_id:
            return Done.NOTHING
    elif payment.status is PaymentStatus.REQUIRES_ACTION:
        # One that is being charged is asked about by its worker.
        outcome = await gateway.find(charge_of(payment))
    if not isinstance(outcome, Approved | Declined):
        return Done.NOTHING
    settled = await settle_payment(payment, outcome, db=db, queues=queues)
    return Done.SETTLED if settled else Done.NOTHING


async def put_back_events(grace_ms: int, *, db: Database, queues: JobQueues) -> int:
    """Give the events that nobody looked at for `grace_ms` their jobs back; return how many.

    Those of an unknown payment get theirs once it is known. Forgets the oldest that are done.
    Raises DatabaseUnavailable or redis.RedisError.
    """
    await db.fetch("purge_events", _KEPT_DAYS, _AT_ONCE)
    rows = await db.fetch("open_events", grace_ms / 1000, _AT_ONCE)
    jobs = [gateway_event_job(row["gateway"], row["event_id"]) for row in rows]
    put_back = 0
    for job, state in zip(jobs, await queues.states(jobs), strict=True):
        match state:
            case JobState.MISSING:
                await queues.add(job)
            case JobState.LOST | JobState.ASTRAY:
                await queues.replace(job)
            case JobState.COMPLETED | JobState.FAILED:
                await queues.retry(job, state)
            case _:
                continue
        put_back += 1
    return put_back
