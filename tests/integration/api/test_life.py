"""Cancelling over HTTP, and what admins do with an order: refund, ship, deliver."""

from __future__ import annotations

import pytest
from tests.integration.api.conftest import BODY
from tests.integration.life import charge, give_back, order_of, refund_of

from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.operations.audit import actions_on_order


@pytest.fixture
async def placed(resources) -> Receipt:
    """An order of user-1."""
    checkout = Checkout.model_validate(BODY)
    return await place_order(checkout, "user-1", None, db=resources.db, queues=resources.queues)


@pytest.fixture
async def receipt(placed, resources) -> Receipt:
    """One that is paid."""
    await charge(resources, placed)
    return placed


@pytest.fixture
def by_admin(api):
    async def post(receipt, verb, body=None, **headers):
        return await api.client.post(
            f"/admin/api/orders/{receipt.order_id}/{verb}",
            headers=api.bearer("admin-1", admin=True) | headers,
            json=body or {},
        )

    return post


async def cancel(api, receipt, **whose):
    return await api.client.post(f"/orders/{receipt.order_id}/cancel", headers=api.bearer(**whose))


async def test_a_customer_cancels_an_order(api, resources, receipt):
    for _ in range(2):
        answer = await cancel(api, receipt)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["status"], body["refunds"][0]["amount"]) == ("cancelled", "68.00")
    asked = await refund_of(resources, receipt)
    await give_back(resources, receipt, asked.refund_id)
    body = (await api.get(f"/orders/{receipt.order_id}")).json()
    assert (body["payment"]["status"], body["refunds"][0]["status"]) == ("refunded", "completed")
    assert body["shipment"] is None


@pytest.mark.parametrize("admin", [False, True])
async def test_nobody_else_cancels_it_there(api, resources, receipt, admin):
    answer = await cancel(api, receipt, user="user-2", admin=admin)
    assert (answer.status_code, api.problem(answer)) == (404, "order-not-found")
    assert (await order_of(resources, receipt)).status == "confirmed"


async def test_an_admin_ships_and_delivers_it(api, receipt, by_admin):
    sent = {"carrier": "Parcels", "trackingNumber": "1"}
    answer = await by_admin(receipt, "ship", sent)
    assert (answer.status_code, answer.json()["carrier"]) == (200, "Parcels")
    answer = await by_admin(receipt, "deliver")
    assert answer.json()["deliveredAt"] is not None
    body = (await api.get(f"/orders/{receipt.order_id}")).json()
    assert (body["status"], body["shipment"]["trackingNumber"]) == ("delivered", "1")


async def test_what_is_not_legal_is_409_and_says_what_is(api, receipt, by_admin):
    await by_admin(receipt, "ship", {"carrier": "Parcels", "trackingNumber": "1"})
    for answer in (await cancel(api, receipt), await by_admin(receipt, "cancel")):
        assert (answer.status_code, api.problem(answer)) == (409, "illegal-transition")
        assert "it may become: delivered" in answer.json()["detail"]


async def test_an_admin_gives_a_part_back_once(api, receipt, by_admin):
    body = {"amount": "8.50", "reason": "a dent"}
    answers = [await by_admin(receipt, "refund", body, **{"Idempotency-Key": "a"}) for _ in "12"]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    other = await by_admin(receipt, "refund", {"amount": "9.00"}, **{"Idempotency-Key": "a"})
    assert (other.status_code, api.problem(other)) == (422, "idempotency-key-reused")
    more = await by_admin(receipt, "refund", {"amount": "60.00"}, **{"Idempotency-Key": "b"})
    assert (more.status_code, api.problem(more)) == (409, "refund-too-large")
    assert api.faults(more) == [("/amount", "money-less-than-equal 59.50")]


async def test_a_refund_needs_a_key(api, receipt, by_admin):
    answer = await by_admin(receipt, "refund", {"amount": "8.50"})
    assert (answer.status_code, api.faults(answer)) == (400, [("Idempotency-Key", "required")])


@pytest.mark.parametrize("amount", ["0.00", "-1.00", "1", "1.001", "abc"])
async def test_an_amount_that_is_none_is_named(api, receipt, by_admin, amount):
    answer = await by_admin(receipt, "refund", {"amount": amount}, **{"Idempotency-Key": "a"})
    assert (answer.status_code, api.problem(answer)) == (422, "invalid-body")
    assert api.faults(answer)[0][0] == "/amount"


async def test_what_was_not_paid_is_not_given_back(api, placed, by_admin):
    answer = await by_admin(placed, "refund", {}, **{"Idempotency-Key": "a"})
    assert (answer.status_code, api.problem(answer)) == (409, "nothing-to-refund")


@pytest.mark.parametrize("verb", ["cancel", "refund", "ship", "deliver"])
async def test_all_of_it_is_for_admins_only(api, receipt, verb):
    answer = await api.client.post(
        f"/admin/api/orders/{receipt.order_id}/{verb}", headers=api.bearer(), json={}
    )
    assert answer.status_code == 403


async def test_who_did_it_is_written_down(resources, receipt, by_admin):
    await by_admin(
        receipt, "refund", {"amount": "1.00", "reason": "a dent"}, **{"Idempotency-Key": "a"}
    )
    await by_admin(receipt, "cancel", {"reason": "she called"})
    done = await actions_on_order(receipt.order_id, db=resources.db)
    assert [(action.user, action.action, action.reason, action.outcome) for action in done] == [
        ("admin-1", "cancel", "she called", "done"),
        ("admin-1", "refund", "a dent", "done"),
    ]
