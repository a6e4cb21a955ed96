"""Shipping and delivering: forwards only, and each told once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from bullmq import UnrecoverableError
from tests.integration.life import charge, order_of, state_of, tell

from orderflow.bull.states import JobState
from orderflow.cancel import cancel_order
from orderflow.contract import JobName, order_event_job
from orderflow.errors import IllegalTransition, OrderNotFound, UntrueNotification
from orderflow.shipping import deliver_order, ship_order
from orderflow.testing import perform_job


@pytest.fixture
def ship(resources):
    async def ship(receipt, carrier="Parcels & Sons", number="0034-1"):
        return await ship_order(
            str(receipt.order_id), carrier, number, db=resources.db, queues=resources.queues
        )

    return ship


@pytest.fixture
def deliver(resources):
    async def deliver(receipt):
        return await deliver_order(str(receipt.order_id), db=resources.db, queues=resources.queues)

    return deliver


@pytest.fixture
async def receipt(resources, place):
    """An order that is paid."""
    receipt = await place()
    await charge(resources, receipt)
    return receipt


async def test_an_order_is_shipped_and_delivered(resources, receipt, ship, deliver):
    shipment = await ship(receipt)
    assert (shipment.carrier, shipment.tracking_number) == ("Parcels & Sons", "0034-1")
    assert shipment.delivered_at is None
    assert (await order_of(resources, receipt)).status == "shipped"

    delivered = await deliver(receipt)
    assert delivered.delivered_at is not None
    assert delivered.shipped_at == shipment.shipped_at
    assert (await order_of(resources, receipt)).status == "delivered"
    for kind in (JobName.ORDER_SHIPPED, JobName.ORDER_DELIVERED):
        job = order_event_job(kind, str(receipt.order_id), "user-1")
        assert await state_of(resources, job) is JobState.LIVE


async def test_what_became_of_an_order_that_is_not_known_is_told_to_nobody(resources):
    job = order_event_job(JobName.ORDER_SHIPPED, str(uuid4()), "user-1")
    with pytest.raises(UnrecoverableError, match="There is no order"):
        await perform_job("notification", job.name, job.data, resources)


async def test_to_say_the_same_again_changes_nothing(receipt, ship, deliver, sql):
    shipments = await asyncio.gather(*(ship(receipt) for _ in range(8)))
    assert len({shipment.shipped_at for shipment in shipments}) == 1
    await deliver(receipt)
    await deliver(receipt)
    await ship(receipt)
    assert await sql.fetchval("SELECT count(*) FROM order_events") == 2
    with pytest.raises(IllegalTransition, match="is delivered and cannot be shipped"):
        await ship(receipt, number="another")


async def test_what_is_not_paid_is_not_shipped(place, ship, deliver):
    receipt = await place()
    legal = "it may become: cancelled, confirmed, processing"
    with pytest.raises(IllegalTransition, match=f"is pending and cannot be shipped; {legal}"):
        await ship(receipt)
    with pytest.raises(IllegalTransition, match="is pending and cannot be delivered"):
        await deliver(receipt)


async def test_what_is_cancelled_is_not_shipped(resources, receipt, ship):
    await cancel_order(str(receipt.order_id), db=resources.db, queues=resources.queues)
    with pytest.raises(IllegalTransition, match=r"is cancelled .*; it may become: nowhere"):
        await ship(receipt)


async def test_an_order_that_is_not_known_is_named(resources):
    with pytest.raises(OrderNotFound, match="There is no order 'nobody'"):
        await deliver_order("nobody", db=resources.db, queues=resources.queues)


async def test_the_customer_is_told_once_of_each(resources, receipt, ship, deliver, mail_server):
    await ship(receipt)
    await deliver(receipt)
    for kind in ("order-shipped", "order-delivered"):
        for _ in range(3):
            await tell(resources, kind, receipt)

    shipped, delivered = mail_server.mails(receipt.order_id)
    assert "Tracking number: 0034-1" in shipped.get_body(["plain"]).get_content()
    assert "Parcels &amp; Sons" in shipped.get_body(["html"]).get_content()
    assert delivered["Subject"] == f"Your order {receipt.order_id} has come"


async def test_deliveries_at_once_send_one_mail(resources, receipt, ship, mail_server):
    await ship(receipt)
    await asyncio.gather(
        *(tell(resources, "order-shipped", receipt) for _ in range(10)), return_exceptions=True
    )
    await tell(resources, "order-shipped", receipt)
    assert len(mail_server.mails(receipt.order_id)) == 1


async def test_what_did_not_happen_is_not_told(resources, receipt, mail_server):
    with pytest.raises(UntrueNotification, match="is confirmed, so 'order-shipped' would not be"):
        await tell(resources, "order-shipped", receipt)
    assert mail_server.mails(receipt.order_id) == []
