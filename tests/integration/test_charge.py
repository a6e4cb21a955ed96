"""Charging through the real worker path, against the real gateway, ledger and database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
from bullmq import UnrecoverableError
from tests.integration.life import order_of

from orderflow.bull.states import JobState
from orderflow.checkout import Receipt
from orderflow.contract import order_confirmation_job, payment_failed_job
from orderflow.errors import GatewayUnavailable
from orderflow.gateways.sandbox import SandboxGateway
from orderflow.resources import Resources
from orderflow.testing import perform_job


def job_data(receipt: Receipt, **changes: Any) -> dict[str, Any]:
    return {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": "card", "amount": str(receipt.total)},
    } | changes


async def charge(resources: Resources, data: dict[str, Any]) -> dict[str, Any]:
    return await perform_job("payment", "process-payment", data, resources)


async def stock_of(sql: asyncpg.Connection, sku: str) -> int:
    stock: int = await sql.fetchval("SELECT stock FROM products WHERE sku = $1", sku)
    return stock


async def test_an_approved_payment_confirms_its_order(resources, place, gateway_server):
    receipt = await place()
    result = await charge(resources, job_data(receipt))

    entry = gateway_server.charge(receipt.payment_id)
    assert result == {"success": True, "transactionId": entry["id"]}
    assert (entry["amount"], entry["currency"]) == ("68.00", "EUR")
    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("confirmed", "completed")
    [state] = await resources.queues.states(
        [order_confirmation_job(str(receipt.order_id), "user-1")]
    )
    assert state is JobState.LIVE


async def test_a_second_delivery_changes_nothing_and_returns_the_first_result(resources, place):
    receipt = await place()
    first = await charge(resources, job_data(receipt))
    before = await order_of(resources, receipt)
    again = await charge(resources, job_data(receipt))

    assert again == first
    assert await order_of(resources, receipt) == before


async def test_twenty_deliveries_at_once_charge_once(resources, place, gateway_server):
    receipt = await place()
    results = await asyncio.gather(*(charge(resources, job_data(receipt)) for _ in range(20)))

    entry = gateway_server.charge(receipt.payment_id)
    assert {result["transactionId"] for result in results} == {entry["id"]}


async def test_a_decline_cancels_the_order_and_gives_its_stock_back(resources, place, sql):
    before = await stock_of(sql, "pot-glass")
    receipt = await place(paymentToken="tok_decline_insufficient_funds")
    assert await stock_of(sql, "pot-glass") == before - 2

    result = await charge(resources, job_data(receipt))

    assert result == {"success": False, "transactionId": None, "reason": "insufficient_funds"}
    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("cancelled", "failed")
    assert order.decline_reason == "insufficient_funds"
    assert await stock_of(sql, "pot-glass") == before
    [state] = await resources.queues.states(
        [payment_failed_job(str(receipt.order_id), "user-1", "insufficient_funds")]
    )
    assert state is JobState.LIVE


async def test_a_declined_payment_gives_its_stock_back_only_once(resources, place, sql):
    before = await stock_of(sql, "pot-glass")
    receipt = await place(paymentToken="tok_decline")
    await asyncio.gather(*(charge(resources, job_data(receipt)) for _ in range(10)))
    assert await stock_of(sql, "pot-glass") == before


async def test_an_outage_is_an_attempt_and_leaves_the_payment_open(resources, place):
    receipt = await place(paymentToken="tok_503")
    with pytest.raises(GatewayUnavailable, match="HTTP 503"):
        await charge(resources, job_data(receipt))

    order = await order_of(resources, receipt)
    assert (order.status, order.payment_status) == ("processing", "processing")


async def test_a_lost_answer_is_asked_about_and_charged_once(resources, place, gateway_server):
    receipt = await place(paymentToken="tok_lost_answer")
    with pytest.raises(GatewayUnavailable):
        await charge(resources, job_data(receipt))
    assert (await order_of(resources, receipt)).payment_status == "processing"

    result = await charge(resources, job_data(receipt))

    entry = gateway_server.charge(receipt.payment_id)
    assert result == {"success": True, "transactionId": entry["id"]}


async def test_a_gateway_that_is_not_there_is_an_attempt(resources, place):
    receipt = await place()
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as client:
        alone = replace(resources, gateway=SandboxGateway(client))
        with pytest.raises(GatewayUnavailable, match="ConnectError"):
            await charge(alone, job_data(receipt))
    assert (await order_of(resources, receipt)).payment_status == "processing"


async def test_cash_is_confirmed_without_a_charge(resources, place, gateway_server):
    receipt = await place(paymentMethod="cash", paymentToken=None)
    data = job_data(receipt, paymentData={"method": "cash", "amount": str(receipt.total)})
    assert await charge(resources, data) == {"success": True, "transactionId": None}
    assert (await order_of(resources, receipt)).status == "confirmed"
    assert gateway_server.charge(receipt.payment_id) is None


@pytest.mark.parametrize(
    ("payment_data", "reason"),
    [
        ({"method": "card", "amount": "1.00"}, "asks for 1.00 but .* is for 68.00 EUR; no charge"),
        ({"method": "wallet", "amount": "68.00"}, "says 'wallet' but .* is by 'card'"),
    ],
)
async def test_a_job_that_contradicts_the_row_is_refused_without_a_charge(
    resources, place, gateway_server, payment_data, reason
):
    receipt = await place()
    with pytest.raises(UnrecoverableError, match=reason):
        await charge(resources, job_data(receipt, paymentData=payment_data))
    assert gateway_server.charge(receipt.payment_id) is None
    assert (await order_of(resources, receipt)).payment_status == "pending"


async def test_a_job_that_names_another_order_is_refused(resources, place, gateway_server):
    one, other = await place(), await place()
    with pytest.raises(UnrecoverableError, match="is of order"):
        await charge(resources, job_data(one, orderId=str(other.order_id)))
    assert gateway_server.charge(one.payment_id) is None


@pytest.mark.parametrize("ids", [(17, 18), ("ext-17", "ext:18")])
async def test_a_foreign_order_is_adopted_and_charged_under_its_own_key(
    resources, gateway_server, ids
):
    payment_id, order_id = ids
    data = {
        "paymentId": payment_id,
        "orderId": order_id,
        "paymentData": {"method": "card", "amount": 19.99},
        "extra": {"kept": "out"},
    }
    result = await charge(resources, data)

    entry = gateway_server.charge(payment_id)
    assert entry["amount"] == "19.99"
    assert result == {"success": True, "transactionId": entry["id"]}
    assert await charge(resources, data) == result
    [row] = await resources.db.fetch("list_orders", None, None, 10)
    assert (row["source"], row["status"], str(row["total"])) == ("external", "confirmed", "19.99")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"orderId": 1, "paymentData": {"method": "card", "amount": 1}}, "paymentId: Field req"),
        ({"paymentId": 1, "orderId": 1, "paymentData": {"amount": 1}}, "paymentData.method: Field"),
        ({"paymentId": 1, "orderId": 1}, "paymentData: Field required"),
        (
            {"paymentId": 1, "orderId": 1, "paymentData": {"method": "card", "amount": -1}},
            "paymentData.amount: Input should be greater than or equal to 0",
        ),
        ([], "data: Input should be a valid dictionary"),
    ],
)
async def test_incomplete_data_fails_at_once_and_names_the_field(resources, data, fault):
    with pytest.raises(UnrecoverableError, match=fault):
        await perform_job("payment", "process-payment", data, resources)


async def test_an_unknown_job_fails_at_once_and_names_those_that_are_known(resources):
    with pytest.raises(UnrecoverableError, match="no job named 'refund'; it knows: process-paym"):
        await perform_job("payment", "refund", {}, resources)
