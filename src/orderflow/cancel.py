"""Cancelling: an order ends before it is shipped, its stock goes back, and so does its money.

One transaction decides, under the lock of the payment that a charge's beginning takes, too. A
payment that has no outcome fails, so that no charge begins any more. Where one had begun, nobody
knows yet whether it took money: the refund is written at once, without the charge that it is of,
and its job finds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.contract import JobName, NewJob, PaymentMethod, order_event_job, refund_job, row_id
from orderflow.db import Database
from orderflow.db.pool import Transaction
from orderflow.errors import IllegalTransition, OrderNotFound
from orderflow.metrics import ORDER_EVENTS
from orderflow.orders import (
    CANCELLED,
    OPEN_PAYMENT,
    OrderStatus,
    PaymentStatus,
    RefundCause,
    Row,
    may_become_order,
    may_become_payment,
    next_statuses,
)

log = structlog.get_logger(__name__)


async def cancel_order(
    order_id: str, *, db: Database, queues: JobQueues, owner: str | None = None
) -> bool:
    """Cancel an order that is not shipped; False if it was cancelled before.

    With an `owner`, an order of somebody else is not found. What was charged, or is being charged
    just now, is given back by a job of its own.

    Raises OrderNotFound, or IllegalTransition once it is shipped.
    """
    async with db.transaction() as transaction:
        await transaction.fetch("lock_payment_of", row_id(order_id))
        payment = await transaction.fetchrow("payment_of", row_id(order_id))
        order = await transaction.fetchrow("lock_order", row_id(order_id))
        if payment is None or order is None or (owner is not None and order["user_id"] != owner):
            raise OrderNotFound(order_id=order_id)
        status = OrderStatus(order["status"])
        if status is OrderStatus.CANCELLED:
            return False
        if status not in _MAY_BE_CANCELLED:
            raise IllegalTransition(
                order_id=order_id,
                status=status.value,
                target=OrderStatus.CANCELLED.value,
                legal=next_statuses(status),
            )
        jobs = await _cancel(order, payment, transaction)
    queues.changes.tell(row_id(order_id))
    ORDER_EVENTS["cancelled",] += 1
    log.info("order cancelled", order_id=order_id, was=status.value)
    for job in jobs:
        await queues.offer(job)
    return True


_MAY_BE_CANCELLED = may_become_order(OrderStatus.CANCELLED)


async def _cancel(order: Row, payment: Row, transaction: Transaction) -> list[NewJob]:
    """Write all that a cancel means; return the jobs that follow from it."""
    refund_id = await _add_refund(order["id"], payment, transaction)
    await transaction.fetch(
        "cancel_order", order["id"], uuid7(), _details(payment, refund_id), _MAY_BE_CANCELLED
    )
    if payment["status"] in OPEN_PAYMENT:
        may_fail = may_become_payment(PaymentStatus.FAILED)
        await transaction.fetch("fail_payment", payment["id"], CANCELLED, may_fail)
    elif payment["method"] == PaymentMethod.CASH:
        await transaction.fetch("close_cash_payment", payment["id"])
    order_key = order["external_id"] or str(order["id"])
    jobs = [order_event_job(JobName.ORDER_CANCELLED, order_key, order["user_id"])]
    return jobs if refund_id is None else [refund_job(refund_id, order_key), *jobs]


async def _add_refund(order_id: UUID, payment: Row, transaction: Transaction) -> UUID | None:
    """Write the wish to give back what was charged, or may be; None where nothing was."""
    amount = _to_give_back(payment)
    if not amount:
        return None
    refund_id = uuid7()
    await transaction.fetch(
        "add_refund",
        refund_id,
        order_id,
        payment["id"],
        RefundCause.CANCEL.value,
        payment["transaction_id"] if payment["status"] == PaymentStatus.COMPLETED else None,
        amount,
        payment["currency"],
        None,
        None,
    )
    return refund_id


def _to_give_back(payment: Row) -> Decimal:
    if payment["method"] == PaymentMethod.CASH:
        return Decimal(0)  # it would have been paid at the door
    match PaymentStatus(payment["status"]):
        case PaymentStatus.PROCESSING | PaymentStatus.REQUIRES_ACTION:
            return Decimal(payment["amount"])
        case PaymentStatus.COMPLETED:
            return Decimal(payment["amount"] - payment["given_back"])
    return Decimal(0)


def _details(payment: Row, refund_id: UUID | None) -> Mapping[str, Any]:
    """Say what the customer is told of the money: whether it was charged for sure."""
    return {
        "refund": refund_id and str(refund_id),
        "charged": refund_id is not None and payment["status"] == PaymentStatus.COMPLETED,
    }
