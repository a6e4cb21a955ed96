"""What tests of an order's life share: its jobs run one by one, and what is known of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

from orderflow.bull.queues import JobState
from orderflow.checkout import Receipt
from orderflow.contract import NewJob
from orderflow.orders import Order, OrderRefund
from orderflow.refund import refunds_of
from orderflow.resources import Resources
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
