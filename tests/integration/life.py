"""What tests of an order's life share: its jobs run one by one, and what is known of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from orderflow import refund
from orderflow.bull.states import JobState
from orderflow.cancel import cancel_order
from orderflow.checkout import Receipt
from orderflow.contract import NewJob, RefundJob
from orderflow.errors import GatewayUnavailable, IllegalTransition, RefundUnsettled
from orderflow.orders import OPEN_REFUND, Order, OrderRefund
from orderflow.refund import refunds_of
from orderflow.resources import Resources
from orderflow.shipping import Shipment, ship_order
from orderflow.testing import perform_job


async def charge(resources: Resources, receipt: Receipt, method: str = "card") -> dict[str, Any]:
    data = {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": method, "amount": str(receipt.total)},
    }
    return await perform_job("payment", "process-payment", data, resources)


async def give_back(resources: Resources, receipt: Receipt, refund_id: UUID) -> dict[str, Any]:
    data = {"refundId": str(refund_id), "orderId": str(receipt.order_id)}
    return await perform_job("order", "refund-payment", data, resources)


async def give_back_after(
    resources: Resources, receipt: Receipt, refund_id: UUID, charge_at_most: timedelta
) -> dict[str, Any]:
    """Run the job of a refund where no charge is under way for longer than that."""
    return await refund.give_back(
        RefundJob(refundId=refund_id, orderId=str(receipt.order_id)),
        db=resources.db,
        gateway=resources.gateway,
        queues=resources.queues,
        charge_at_most=charge_at_most,
    )


async def cancel(resources: Resources, receipt: Receipt, owner: str = "user-1") -> bool:
    return await cancel_order(
        str(receipt.order_id), db=resources.db, queues=resources.queues, owner=owner
    )


async def ship(resources: Resources, receipt: Receipt) -> Shipment:
    return await ship_order(
        str(receipt.order_id), "Parcels", "1", db=resources.db, queues=resources.queues
    )


async def tell(
    resources: Resources, kind: str, receipt: Receipt, refund_id: UUID | None = None
) -> dict[str, Any]:
    data = {"orderId": str(receipt.order_id), "userId": "user-1"}
    if refund_id is not None:
        data["refundId"] = str(refund_id)
    return await perform_job("notification", kind, data, resources)


async def order_of(resources: Resources, receipt: Receipt) -> Order:
    row = await resources.db.fetchrow("find_order", receipt.order_id)
    assert row is not None
    return Order.from_row(row)


async def refund_of(resources: Resources, receipt: Receipt) -> OrderRefund:
    """The only refund of the order."""
    [refund] = await refunds_of(receipt.order_id, db=resources.db)
    return refund


async def state_of(resources: Resources, job: NewJob) -> JobState:
    [state] = await resources.queues.states([job])
    return state


def given_back(gateway_server: Any, charge_id: str) -> Decimal:
    """What the gateway's books say was given back of a charge."""
    return sum(
        (
            Decimal(entry["amount"])
            for entry in gateway_server.refunds()
            if entry["chargeId"] == charge_id
        ),
        Decimal(0),
    )


async def race_with_cancel(
    resources: Resources, receipt: Receipt, chance: random.Random
) -> bool | IllegalTransition:
    """Charge, cancel and ship at random moments; return what became of the cancel.

    The refund's job runs as soon as there is one, so while the charge may be under way, too.
    """

    async def after_a_while(make: Callable[[], Awaitable[Any]], at_most_s: float) -> Any:
        await asyncio.sleep(chance.random() * at_most_s)
        try:
            return await make()
        except IllegalTransition as error:
            return error

    async def pay() -> None:
        for _ in range(3):
            try:
                await charge(resources, receipt)
            except GatewayUnavailable:
                await asyncio.sleep(chance.random() * 0.02)
            else:
                return

    async def cancel_and_settle() -> bool:
        cancelled = await cancel(resources, receipt)
        await settle_refunds(resources, receipt)
        return cancelled

    _, cancelled, _ = await asyncio.gather(
        after_a_while(pay, 0.05),
        after_a_while(cancel_and_settle, 0.25),
        after_a_while(lambda: ship(resources, receipt), 0.35),
    )
    await settle_refunds(resources, receipt)
    became: bool | IllegalTransition = cancelled
    return became


async def settle_refunds(resources: Resources, receipt: Receipt) -> None:
    """Run the refunds of an order until each has its outcome."""
    async with asyncio.timeout(60):
        while True:
            known = await refunds_of(receipt.order_id, db=resources.db)
            open_ = [found for found in known if found.status in OPEN_REFUND]
            if not open_:
                return
            for found in open_:
                try:
                    await give_back_after(resources, receipt, found.refund_id, timedelta(seconds=1))
                except (RefundUnsettled, GatewayUnavailable):
                    await asyncio.sleep(0.1)
