"""A client of the API, for the shops and services that place orders and follow them.

    async with Orders("https://orders.shop.example", token) as orders:
        receipt = await orders.checkout(
            items={"tea-assam": 2}, payment_method="card", email="ada@shop.example"
        )

`SyncOrders` is the same without `await`. What got no answer is asked for again by itself, with the
same idempotency key, so that a checkout makes one order. Nothing of the server is imported.
"""

from orderflow.client.answers import (
    Address,
    LiveStatus,
    Order,
    OrderContact,
    OrderItem,
    OrderPayment,
    OrderRefund,
    Receipt,
    Shipment,
)
from orderflow.client.calls import Checkout
from orderflow.client.failures import Fault, Problem, Unanswered, UnreadableAnswer
from orderflow.client.orders import Orders
from orderflow.client.sync_orders import SyncOrders
from orderflow.contract import PaymentMethod
from orderflow.errors import OrderflowError
from orderflow.orders import OrderStatus, PaymentStatus

__all__ = [
    "Address",
    "Checkout",
    "Fault",
    "LiveStatus",
    "Order",
    "OrderContact",
    "OrderItem",
    "OrderPayment",
    "OrderRefund",
    "OrderStatus",
    "OrderflowError",
    "Orders",
    "PaymentMethod",
    "PaymentStatus",
    "Problem",
    "Receipt",
    "Shipment",
    "SyncOrders",
    "Unanswered",
    "UnreadableAnswer",
]
