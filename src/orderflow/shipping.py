"""Shipping: an order leaves the house, and comes to its customer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.contract import JobName, order_event_job, row_id
from orderflow.db import Database, Reads
from orderflow.errors import IllegalTransition, OrderNotFound
from orderflow.metrics import ORDER_EVENTS
from orderflow.orders import OrderStatus, Row, Shipment, may_become_order, next_statuses

log = structlog.get_logger(__name__)


async def ship_order(
    order_id: str, carrier: str, tracking_number: str, *, db: Database, queues: JobQueues
) -> Shipment:
    """Say that a confirmed order is on its way, and have its customer told.

    To say the same again changes nothing. Raises OrderNotFound, or IllegalTransition.
    """
    details = {"carrier": carrier, "trackingNumber": tracking_number}
    return await _advance(
        order_id, OrderStatus.SHIPPED, JobName.ORDER_SHIPPED, details, db=db, queues=queues
    )


async def deliver_order(order_id: str, *, db: Database, queues: JobQueues) -> Shipment:
    """Say that a shipped order has come, and have its customer told.

    To say the same again changes nothing. Raises OrderNotFound, or IllegalTransition.
    """
    return await _advance(
        order_id, OrderStatus.DELIVERED, JobName.ORDER_DELIVERED, {}, db=db, queues=queues
    )


async def _advance(
    order_id: str,
    target: OrderStatus,
    kind: JobName,
    details: Mapping[str, Any],
    *,
    db: Database,
    queues: JobQueues,
) -> Shipment:
    row = row_id(order_id)
    advanced = await db.fetchrow(
        "advance_order", row, target.value, may_become_order(target), uuid7(), kind.value, details
    )
    order = await db.fetchrow("order_and_event", row, kind.value)
    if order is None:
        raise OrderNotFound(order_id=order_id)
    if advanced is None and order["details"] != details:
        status = OrderStatus(order["status"])
        raise IllegalTransition(
            order_id=order_id,
            status=status.value,
            target=target.value,
            legal=next_statuses(status),
        )
    if advanced is not None:
        queues.changes.tell(row)
        ORDER_EVENTS[target.value,] += 1
        log.info("order advanced", order_id=order_id, status=target.value)
        order_key = order["external_id"] or str(order["id"])
        await queues.offer(order_event_job(kind, order_key, order["user_id"]))
    shipment = await shipment_of(row, db=db)
    if shipment is None:
        raise LookupError(f"order {row} is shipped without a shipment")
    return shipment


async def shipment_of(order_id: Any, *, db: Reads) -> Shipment | None:
    """Return how an order was sent; None if it was not."""
    return _shipment({row["kind"]: row for row in await db.fetch("events_of_order", order_id)})


def _shipment(events: Mapping[str, Row]) -> Shipment | None:
    shipped = events.get(JobName.ORDER_SHIPPED)
    if shipped is None:
        return None
    delivered = events.get(JobName.ORDER_DELIVERED)
    return Shipment(
        carrier=shipped["details"]["carrier"],
        tracking_number=shipped["details"]["trackingNumber"],
        shipped_at=shipped["at"],
        delivered_at=delivered["at"] if delivered else None,
    )
