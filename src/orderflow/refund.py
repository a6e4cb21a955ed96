"""Refunds: money is asked back by a row, and given back by a job, once.

The row is the wish, and its id the gateway's idempotency key. As with a charge, an outcome that
nobody heard is asked about before anything is done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from orderflow.bull.queues import JobQueues
from orderflow.contract import (
    PaymentMethod,
    RefundJob,
    gateway_key,
    order_refunded_job,
    refund_job,
    row_id,
)
from orderflow.db import Database, Reads
from orderflow.errors import (
    IdempotencyKeyReused,
    NothingToRefund,
    OrderNotFound,
    RefundNotFound,
    RefundTooLarge,
    RefundUnsettled,
)
from orderflow.gateways import (
    Approved,
    Charge,
    Declined,
    Gateway,
    Refund,
    Refunded,
    RefundOutcome,
    RefundPending,
)
from orderflow.metrics import MONEY, ORDER_EVENTS, REFUNDS
from orderflow.orders import (
    OPEN_REFUND,
    OrderRefund,
    PaymentStatus,
    RefundCause,
    RefundStatus,
    Row,
)

log = structlog.get_logger(__name__)

#: How long a gateway that says "pending" is left to make up its mind.
_ASK_AGAIN_S = 30.0


async def request_refund(
    order_id: str, amount: Decimal | None, key: str, *, db: Database, queues: JobQueues
) -> OrderRefund:
    """Write down that `amount` of an order, or None for all that is left, is to be given back.

    The same `key` for the same order gets the same refund. What is given back, or is about to be,
    is never more than was charged.

    Raises OrderNotFound, NothingToRefund, RefundTooLarge, or IdempotencyKeyReused where the key
    came with another amount.
    """
    async with db.transaction() as transaction:
        await transaction.fetch("lock_payment_of", row_id(order_id))
        payment = await transaction.fetchrow("payment_of", row_id(order_id))
        if payment is None:
            raise OrderNotFound(order_id=order_id)
        known = await transaction.fetchrow("find_refund_by_key", payment["id"], key)
        if known is not None:
            if known["asked"] != amount:
                raise IdempotencyKeyReused
            return OrderRefund.from_row(known)
        row = await transaction.fetchrow(
            "add_refund",
            uuid7(),
            row_id(order_id),
            payment["id"],
            RefundCause.REQUEST.value,
            payment["transaction_id"],
            _checked_amount(payment, amount),
            payment["currency"],
            key,
            amount,
        )
    if row is None:
        raise LookupError("the refund was not written")
    queues.changes.tell(row_id(order_id))
    log.info("refund asked for", order_id=order_id, refund_id=str(row["id"]))
    await queues.offer(refund_job(row["id"], order_id))
    return OrderRefund.from_row(row)


def _checked_amount(payment: Row, amount: Decimal | None) -> Decimal:
    payment_key = payment["external_id"] or str(payment["id"])
    if payment["status"] not in (PaymentStatus.COMPLETED, PaymentStatus.REFUNDED):
        raise NothingToRefund(payment_id=payment_key, status=payment["status"])
    left: Decimal = payment["amount"] - payment["given_back"]
    if payment["status"] == PaymentStatus.REFUNDED:
        left = Decimal("0.00")
    wanted = left if amount is None else amount
    if wanted > left or left <= 0:
        raise RefundTooLarge(payment_id=payment_key, left=left, currency=payment["currency"])
    return wanted


async def request_stray_refund(
    payment_id: UUID, transaction_id: str, *, db: Database, queues: JobQueues
) -> bool:
    """Write down that a stray charge is to be given back; False if it is already."""
    row = await add_stray_refund(payment_id, transaction_id, db=db)
    if row is not None:
        queues.changes.tell(row["order_id"])
        await queues.offer(refund_job(row["id"], str(row["order_id"])))
    return row is not None


async def add_stray_refund(payment_id: UUID, transaction_id: str, *, db: Database) -> Row | None:
    """Write the row alone: the reconciler adds its job. None if it is there already."""
    async with db.transaction() as transaction:
        await transaction.fetch("lock_payment", payment_id)
        return await transaction.fetchrow(
            "refund_stray_charge", uuid7(), payment_id, transaction_id
        )


async def refunds_of(order_id: UUID, *, db: Reads) -> Sequence[OrderRefund]:
    """Return the refunds of an order, the oldest first."""
    return [OrderRefund.from_row(row) for row in await db.fetch("refunds_of_order", order_id)]


@dataclass(frozen=True, slots=True)
class _Refund:
    """A refund and the parts of its payment that giving back needs."""

    id: UUID
    order_key: str
    user_id: str | None
    cause: RefundCause
    charge_key: str
    transaction_id: str | None
    amount: Decimal
    currency: str
    method: PaymentMethod
    status: RefundStatus
    gateway_id: str | None
    decline_reason: str | None
    payment_rest: timedelta

    @classmethod
    def from_row(cls, row: Row) -> _Refund:
        return cls(
            id=row["id"],
            order_key=row["order_external_id"] or str(row["order_id"]),
            user_id=row["user_id"],
            cause=RefundCause(row["cause"]),
            charge_key=gateway_key(row["payment_external_id"] or str(row["payment_id"])),
            transaction_id=row["transaction_id"],
            amount=row["amount"],
            currency=row["currency"],
            method=PaymentMethod(row["method"]),
            status=RefundStatus(row["status"]),
            gateway_id=row["gateway_id"],
            decline_reason=row["decline_reason"],
            payment_rest=row["payment_rest"],
        )

    @property
    def charge(self) -> Charge:
        """The charge that the money may have been taken with."""
        return Charge(
            key=self.charge_key,
            amount=self.amount,
            currency=self.currency,
            method=self.method,
            token=None,
        )

    @property
    def waits_for_its_charge(self) -> bool:
        """Whether it is not known yet if there is anything to give back."""
        return (
            self.status in OPEN_REFUND
            and self.transaction_id is None
            and self.method is not PaymentMethod.CASH
        )


async def give_back(
    job: RefundJob,
    *,
    db: Database,
    gateway: Gateway,
    queues: JobQueues,
    charge_at_most: timedelta,
) -> dict[str, Any]:
    """Bring the job's refund to its outcome; return `{success, refundId}`, and `reason` if not.

    A refund that has its outcome is not made again. Of a charge that was under way when its order
    was cancelled, nobody can say that it took nothing before `charge_at_most` has gone by.

    Raises GatewayUnavailable when there is no outcome yet, RefundUnsettled when there cannot be
    one yet, and RefundNotFound.
    """
    refund = await _find("begin_refund", job.refund_id, db)
    if refund.waits_for_its_charge:
        refund = await _look_for_charge(refund, db, gateway, charge_at_most)
    if refund.status in OPEN_REFUND:
        await _settle(refund, await _outcome(refund, gateway), db)
        refund = await _find("find_refund", job.refund_id, db)
    queues.changes.tell(row_id(refund.order_key))
    if refund.status is RefundStatus.COMPLETED:
        await queues.offer(order_refunded_job(refund.id, refund.order_key, refund.user_id))
    return _result(refund)


async def _find(query: str, refund_id: UUID, db: Database) -> _Refund:
    row = await db.fetchrow(query, refund_id)
    if row is None:
        raise RefundNotFound(refund_id=refund_id)
    return _Refund.from_row(row)


async def _look_for_charge(
    refund: _Refund, db: Database, gateway: Gateway, charge_at_most: timedelta
) -> _Refund:
    """Find the charge that was under way when the order was cancelled, or that there is none."""
    word = await gateway.cancel(refund.charge)
    if isinstance(word, Approved):
        await db.fetch("name_refunded_charge", refund.id, word.transaction_id)
        return await _find("find_refund", refund.id, db)
    # A worker that begins later finds the payment failed. One that had begun may not have come
    # to the gateway yet.
    left = charge_at_most - refund.payment_rest
    if word is None and left > timedelta():
        raise RefundUnsettled(
            refund_id=refund.id,
            retry_after_s=round(min(left.total_seconds() + 1, _ASK_AGAIN_S), 3),
            reason="a charge may be under way",
        )
    if await db.fetchrow("void_refund", refund.id):
        log.info("nothing to give back", refund_id=str(refund.id), order_id=refund.order_key)
        REFUNDS["void", refund.cause] += 1
    return await _find("find_refund", refund.id, db)


async def _outcome(refund: _Refund, gateway: Gateway) -> RefundOutcome | None:
    """Return what the gateway says, or None for cash, which a person hands over."""
    if refund.transaction_id is None:
        return None
    wanted = Refund(
        key=str(refund.id),
        charge_key=refund.charge_key,
        transaction_id=refund.transaction_id,
        amount=refund.amount,
        currency=refund.currency,
    )
    known = None
    if refund.status is RefundStatus.PROCESSING:
        # An attempt before this one may have been given it and not heard the answer.
        known = await gateway.find_refund(wanted)
    outcome = known or await gateway.refund(wanted)
    if isinstance(outcome, RefundPending):
        raise RefundUnsettled(
            refund_id=refund.id, retry_after_s=_ASK_AGAIN_S, reason="the gateway has it pending"
        )
    return outcome


async def _settle(refund: _Refund, outcome: RefundOutcome | None, db: Database) -> None:
    """Write what came of a refund, unless it is written already."""
    if await write_refund(refund.id, outcome, db):
        declined = isinstance(outcome, Declined)
        REFUNDS["declined" if declined else "refunded", refund.cause] += 1
        if not declined:
            ORDER_EVENTS["refunded",] += 1
            MONEY["refunded", refund.currency] += float(refund.amount)


async def write_refund(refund_id: UUID, outcome: RefundOutcome | None, db: Database) -> bool:
    """Write what came of a refund, with the event of it; False if it had an outcome already.

    None is cash: given back by hand.
    """
    if isinstance(outcome, Declined):
        written = await db.fetchrow("settle_refund_declined", refund_id, outcome.reason)
        if written:
            log.error(
                "refund declined: a person has to see to it",
                refund_id=str(refund_id),
                reason=outcome.reason,
            )
        return written is not None
    gateway_id = outcome.refund_id if isinstance(outcome, Refunded) else None
    async with db.transaction() as transaction:
        await transaction.fetch("lock_payment_of_refund", refund_id)
        written = await transaction.fetchrow("settle_refunded", refund_id, gateway_id, uuid7())
    log.info(
        "refund settled" if written else "refund was settled already", refund_id=str(refund_id)
    )
    return written is not None


def _result(refund: _Refund) -> dict[str, Any]:
    result: dict[str, Any] = {
        "success": refund.status is RefundStatus.COMPLETED,
        "refundId": refund.gateway_id,
    }
    if refund.status is RefundStatus.FAILED:
        result["reason"] = refund.decline_reason
    if refund.status is RefundStatus.VOID:
        result["reason"] = "nothing was charged"
    return result
