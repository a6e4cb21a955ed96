"""What a webhook says: its type, its id, and its body. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from orderflow.orders import Row


class EventType(StrEnum):
    """What an endpoint can be told of."""

    CONFIRMED = "order.confirmed"
    CANCELLED = "order.cancelled"
    SHIPPED = "order.shipped"
    DELIVERED = "order.delivered"
    REFUNDED = "order.refunded"


def message_id(event: EventType, order_id: UUID, refund_id: UUID | None) -> str:
    """Return the `webhook-id`: the same for each attempt, each endpoint and each resend.

    It is made of what it tells of, which happens once: so it is the same even where that was
    written a second time, as after a database was restored.
    """
    return f"{event.value.replace('.', '_')}_{refund_id or order_id}"


def body_of(row: Row) -> bytes:
    """Return the body that tells of a row of `claim_webhooks`: the same at each attempt.

    There is nothing in it that says who the customer is.
    """
    message = {
        "type": row["type"],
        "timestamp": _time(row["happened_at"]),
        "data": _data(row),
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _data(row: Row) -> dict[str, Any]:
    return {
        "orderId": row["external_id"] or str(row["order_id"]),
        "status": row["order_status"],
        "total": _money(row["total"]),
        "currency": row["currency"],
        "items": [_item(item) for item in row["items"]],
        "payment": {
            "paymentId": row["payment_external_id"] or str(row["payment_id"]),
            "method": row["payment_method"],
            "declineReason": row["decline_reason"],
        },
        "shipment": _shipment(row),
        "refund": _refund(row),
        "createdAt": _time(row["created_at"]),
    }


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sku": item["sku"],
        "name": item["name"],
        "quantity": item["quantity"],
        "unitPrice": item["unit_price"],
        "total": _money(Decimal(item["unit_price"]) * item["quantity"]),
    }


def _shipment(row: Row) -> dict[str, Any] | None:
    if row["shipment"] is None:
        return None
    return {
        **row["shipment"],
        "shippedAt": _time(row["shipped_at"]),
        "deliveredAt": None if row["delivered_at"] is None else _time(row["delivered_at"]),
    }


def _refund(row: Row) -> dict[str, Any] | None:
    if row["refund_id"] is None:
        return None
    return {
        "refundId": str(row["refund_id"]),
        "cause": row["refund_cause"],
        "amount": _money(row["refund_amount"]),
        "currency": row["currency"],
    }


def _money(amount: Decimal) -> str:
    return f"{amount:.2f}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
