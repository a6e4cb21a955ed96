"""An order and an event to try templates on. Their texts hold what HTML has to escape."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from orderflow.contract import PaymentMethod
from orderflow.orders import Event, Item, Order, OrderStatus, PaymentStatus, Source

_PLACED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)

SAMPLE = Order(
    id=UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b"),
    user_id="user-1",
    source=Source.CHECKOUT,
    status=OrderStatus.CONFIRMED,
    total=Decimal("42.80"),
    currency="EUR",
    items=(
        Item("tea-assam", "Assam <second flush> 250 g", 2, Decimal("8.90")),
        Item("gift-card", "Gift card", 1, Decimal("25.00")),
    ),
    email="ada@shop.example",
    phone="+4915112345678",
    shipping_address={
        "name": "Ada Lovelace",
        "line1": "Tea & Sons, Musterweg 1",
        "line2": None,
        "postalCode": "10115",
        "city": "Berlin",
        "region": None,
        "country": "DE",
    },
    payment_id=UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5c"),
    payment_method=PaymentMethod.CARD,
    payment_status=PaymentStatus.COMPLETED,
    decline_reason="insufficient_funds",
    created_at=_PLACED,
    updated_at=_PLACED,
)

#: One that has what any kind of event has.
SAMPLE_EVENT = Event(
    id=UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5d"),
    at=_PLACED,
    details={
        "carrier": "Parcels & Sons",
        "trackingNumber": "00340434161094021501",
        "refund": "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5e",
        "charged": True,
    },
    refund_id=None,
    refund_amount=Decimal("42.80"),
)
