"""Orders cancelled, refunded, shipped and delivered by operators, with who did it and why."""

from __future__ import annotations

from decimal import Decimal

from orderflow import cancel, refund, shipping
from orderflow.bull.queues import JobQueues
from orderflow.contract import row_id
from orderflow.db import Database
from orderflow.operations.audit import Actor, audited
from orderflow.orders import OrderRefund, Shipment


async def cancel_order(order_id: str, actor: Actor, *, db: Database, queues: JobQueues) -> None:
    """Do what `cancel.cancel_order` does for its customer."""
    async with audited(actor, "cancel", order_id, db=db, order_id=row_id(order_id)) as note:
        note.details["was cancelled"] = not await cancel.cancel_order(
            order_id, db=db, queues=queues
        )


async def refund_order(
    order_id: str,
    amount: Decimal | None,
    key: str,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
) -> OrderRefund:
    """Do what `refund.request_refund` does."""
    asked = None if amount is None else str(amount)
    async with audited(
        actor, "refund", order_id, db=db, order_id=row_id(order_id), details={"amount": asked}
    ) as note:
        found = await refund.request_refund(order_id, amount, key, db=db, queues=queues)
        note.details |= {"refund": str(found.refund_id), "amount": str(found.amount)}
    return found


async def ship_order(
    order_id: str,
    carrier: str,
    tracking_number: str,
    actor: Actor,
    *,
    db: Database,
    queues: JobQueues,
) -> Shipment:
    """Do what `shipping.ship_order` does."""
    details = {"carrier": carrier, "tracking number": tracking_number}
    async with audited(actor, "ship", order_id, db=db, order_id=row_id(order_id), details=details):
        return await shipping.ship_order(order_id, carrier, tracking_number, db=db, queues=queues)


async def deliver_order(
    order_id: str, actor: Actor, *, db: Database, queues: JobQueues
) -> Shipment:
    """Do what `shipping.deliver_order` does."""
    async with audited(actor, "deliver", order_id, db=db, order_id=row_id(order_id)):
        return await shipping.deliver_order(order_id, db=db, queues=queues)
