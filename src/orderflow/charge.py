"""Charging: a payment gets its outcome, once, and its order goes on with it.

The payment's row decides what is charged, and its key makes the gateway take money at most once,
however often the job is delivered.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.contract import (
    NewJob,
    PaymentJob,
    PaymentMethod,
    gateway_key,
    order_confirmation_job,
    payment_failed_job,
    row_id,
)
from orderflow.db import Database
from orderflow.errors import AmountMismatch, MethodMismatch, WrongOrder
from orderflow.gateways import ActionRequired, Charge, Declined, Gateway, Outcome, Reply
from orderflow.metrics import MONEY, ORDERS, PAYMENTS, STRAY_CHARGES
from orderflow.orders import (
    CANCELLED,
    EXPIRED,
    OPEN_PAYMENT,
    OrderStatus,
    Payment,
    PaymentStatus,
    may_become_order,
    may_become_payment,
)
from orderflow.refund import add_stray_refund

log = structlog.get_logger(__name__)


async def charge_payment(
    job: PaymentJob, *, db: Database, gateway: Gateway, queues: JobQueues, currency: str
) -> dict[str, Any]:
    """Bring the job's payment to its outcome; return `{success, transactionId}`.

    A payment that has its outcome is not charged again: the first result is returned. One that
    waits for the customer or the bank goes on with the gateway's event, and its order stays open:
    `success` is false then, and `reason` is `requires_action`. A job of a producer outside of
    orderflow, whose order is not known, is adopted in `currency`.

    Raises GatewayUnavailable when there is no outcome yet, and AmountMismatch, MethodMismatch or
    WrongOrder when the job contradicts the row: then nothing is charged.
    """
    payment = await _begin(job, db, currency)
    _check_agreement(job, payment)
    if payment.status in _TO_CHARGE:
        queues.changes.tell(payment.order_id)
        payment = await _settle(payment, db, gateway)
        queues.changes.tell(payment.order_id)
    await _offer_notification(payment, queues)
    return _result(payment)


#: One that waits is the gateway's to go on with.
_TO_CHARGE = OPEN_PAYMENT - {PaymentStatus.REQUIRES_ACTION}


async def _begin(job: PaymentJob, db: Database, currency: str) -> Payment:
    """Return the job's payment as it was before; from now on it is being processed.

    That is so only where it is open and the job agrees with it.
    """
    wanted = (
        row_id(job.payment_id),
        row_id(job.order_id),
        job.payment_data.amount,
        job.payment_data.method.value,
    )
    row = await db.batch("begin_charge", *wanted)
    if row is None:
        await _adopt(job, db, currency)
        row = await db.batch("begin_charge", *wanted)
    if row is None:
        # The order exists, and its one payment is another one.
        raise WrongOrder(asked=job.order_id, payment_id=job.payment_id, order_id="unknown")
    return Payment.from_row(row)


async def _adopt(job: PaymentJob, db: Database, currency: str) -> None:
    """Write the rows of an order that a producer outside of orderflow made."""
    order_id, payment_id = row_id(job.order_id), row_id(job.payment_id)
    adopted = await db.fetchrow(
        "adopt_payment",
        order_id,
        None if str(order_id) == job.order_id else job.order_id,
        payment_id,
        None if str(payment_id) == job.payment_id else job.payment_id,
        job.payment_data.method.value,
        job.payment_data.amount,
        currency,
    )
    if adopted is None:
        return  # by another one, which was faster
    ORDERS["adopted",] += 1
    log.info("order adopted", order_id=job.order_id, payment_id=job.payment_id)


def _check_agreement(job: PaymentJob, payment: Payment) -> None:
    if row_id(job.order_id) != payment.order_id:
        raise WrongOrder(asked=job.order_id, payment_id=payment.key, order_id=payment.order_key)
    if job.payment_data.amount != payment.amount:
        raise AmountMismatch(
            asked=job.payment_data.amount,
            payment_id=payment.key,
            amount=payment.amount,
            currency=payment.currency,
        )
    if job.payment_data.method != payment.method:
        raise MethodMismatch(
            asked=job.payment_data.method.value,
            payment_id=payment.key,
            method=payment.method.value,
        )


async def _settle(payment: Payment, db: Database, gateway: Gateway) -> Payment:
    """Charge an open payment and write what came of it; return the payment as it is then."""
    reply = await _reply(payment, gateway)
    if isinstance(reply, ActionRequired):
        if await _keep_waiting(payment, reply, db):
            waits = PaymentStatus.REQUIRES_ACTION
            return replace(payment, status=waits, transaction_id=reply.transaction_id)
    elif await write_outcome(
        payment.id, reply, payment.method, payment.amount, payment.currency, db=db
    ):
        return _settled(payment, reply)
    # Whoever wrote first decided: another worker, the reconciler, or an event of the gateway.
    row = await db.fetchrow("find_payment", payment.id)
    if row is None:
        raise LookupError(f"payment {payment.id} is gone")
    return Payment.from_row(row)


def _settled(payment: Payment, outcome: Outcome | None) -> Payment:
    if isinstance(outcome, Declined):
        return replace(payment, status=PaymentStatus.FAILED, decline_reason=outcome.reason)
    transaction_id = outcome.transaction_id if outcome is not None else None
    return replace(payment, status=PaymentStatus.COMPLETED, transaction_id=transaction_id)


async def _reply(payment: Payment, gateway: Gateway) -> Reply | None:
    """Return what the gateway says, or None where nothing is charged."""
    if payment.method is PaymentMethod.CASH:
        return None
    charge = charge_of(payment)
    if payment.status is PaymentStatus.PROCESSING:
        # An attempt before this one may have charged and not heard the answer: ask, then charge.
        known = await gateway.find(charge)
        if known is not None:
            return known
    return await gateway.charge(charge)


def charge_of(payment: Payment) -> Charge:
    """Return what the gateway is asked for, or about."""
    return Charge(
        key=gateway_key(payment.key),
        amount=payment.amount,
        currency=payment.currency,
        method=payment.method,
        token=payment.token,
    )


async def _keep_waiting(payment: Payment, reply: ActionRequired, db: Database) -> bool:
    """Let a payment that was being charged wait; False if it waits already, or has an outcome."""
    waits = await db.fetchrow(
        "keep_waiting", payment.id, reply.transaction_id, reply.client_secret, _MAY_WAIT
    )
    if waits is not None:
        log.info("payment waits for its customer", payment_row=str(payment.id))
    return waits is not None


async def settle_payment(
    payment: Payment, outcome: Outcome, *, db: Database, queues: JobQueues
) -> bool:
    """Write what the gateway told of a payment, and have its customer told how it ended.

    False if the payment had an outcome already. Money that it has no use for is written down as a
    stray charge.
    """
    written = await write_outcome(
        payment.id, outcome, payment.method, payment.amount, payment.currency, db=db
    )
    if written:
        queues.changes.tell(payment.order_id)
        await _offer_notification(_settled(payment, outcome), queues)
    return written


async def write_outcome(
    payment_id: UUID,
    outcome: Outcome | None,
    method: str,
    amount: Decimal,
    currency: str,
    *,
    db: Database,
) -> bool:
    """Write what came of a payment, and with it its order; False if it had an outcome already.

    None is cash: paid without a charge. What is written is counted.
    """
    if isinstance(outcome, Declined):
        written = await db.batch("settle_declined", payment_id, outcome.reason, same=_MAY_FAIL)
    else:
        transaction_id = outcome.transaction_id if outcome is not None else None
        written = await db.batch("settle_paid", payment_id, transaction_id, same=_MAY_BE_PAID)
        if written is None and transaction_id is not None:
            await record_if_stray(payment_id, transaction_id, db)
    log.info(
        "payment settled" if written else "payment was settled by another worker",
        payment_row=str(payment_id),
        outcome="declined" if isinstance(outcome, Declined) else "paid",
    )
    if written is None:
        return False
    count_outcome(outcome, method, amount, currency)
    return True


def count_outcome(outcome: Outcome | None, method: str, amount: Decimal, currency: str) -> None:
    """Count a payment whose outcome was written, and what became of its order."""
    if isinstance(outcome, Declined):
        PAYMENTS["declined", method] += 1
        ORDERS["cancelled",] += 1
        return
    PAYMENTS["paid", method] += 1
    ORDERS["confirmed",] += 1
    MONEY["cash" if outcome is None else "charged", currency] += float(amount)


async def record_if_stray(payment_id: UUID, transaction_id: str, db: Database) -> None:
    """Write down a charge that no order has a use for, so that the money is given back.

    Who cancelled an order has asked for that; of any other a person decides.
    """
    stray = await db.fetchrow("record_stray_charge", payment_id, transaction_id)
    if stray is None:
        return
    STRAY_CHARGES[()] += 1
    ids = {"payment_row": str(payment_id), "transaction_id": transaction_id}
    if stray["decline_reason"] == CANCELLED:
        await add_stray_refund(payment_id, transaction_id, db=db)
        log.info("charge of a cancelled order: it is given back", **ids)
    else:
        log.error("charge without an order: it has to be given back", **ids)


async def expire_payment(payment_id: UUID, charge_at_most_s: float, db: Database) -> bool:
    """Let a payment that nobody has made fail, and with it its order.

    False if it has an outcome, or if a charge began within `charge_at_most_s`. The row is locked
    between the look and the write: a worker that begins a charge at the same time is found to have
    begun, or finds the payment failed and charges nothing.
    """
    async with db.transaction() as transaction:
        if await transaction.fetchrow("lock_unless_charging", payment_id, charge_at_most_s) is None:
            return False
        await transaction.fetch("settle_declined", [payment_id], [EXPIRED], *_MAY_FAIL)
    return True


#: The statuses that a payment, and its order, may be settled from.
_MAY_FAIL = (
    may_become_payment(PaymentStatus.FAILED),
    may_become_order(OrderStatus.CANCELLED),
)
_MAY_BE_PAID = (
    may_become_payment(PaymentStatus.COMPLETED),
    may_become_order(OrderStatus.CONFIRMED),
)
_MAY_WAIT = may_become_payment(PaymentStatus.REQUIRES_ACTION)


async def _offer_notification(payment: Payment, queues: JobQueues) -> None:
    """Have the customer told how the payment ended, if it did, and unless that was done."""
    if payment.status not in OPEN_PAYMENT and not payment.notified:
        await queues.offer(_notification(payment))


def _notification(payment: Payment) -> NewJob:
    if payment.status is PaymentStatus.FAILED:
        return payment_failed_job(
            payment.order_key, payment.user_id, payment.decline_reason or "declined"
        )
    return order_confirmation_job(payment.order_key, payment.user_id)


def _result(payment: Payment) -> dict[str, Any]:
    if payment.status is PaymentStatus.REQUIRES_ACTION:
        waits = payment.status.value
        return {"success": False, "transactionId": payment.transaction_id, "reason": waits}
    if payment.status is PaymentStatus.FAILED:
        return {"success": False, "transactionId": None, "reason": payment.decline_reason}
    return {"success": True, "transactionId": payment.transaction_id}
