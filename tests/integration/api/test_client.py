"""Both clients against the API, with a bad network between them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from tests.integration.api.conftest import Api
from tests.integration.troubled_shop import (
    TroubledShop,
    answer_with,
    cut_before,
    cut_within,
    lose_answer,
    never_answer,
    run_troubled_shop,
    stream,
)

from orderflow.client import (
    Address,
    Orders,
    Problem,
    SyncOrders,
    Unanswered,
    UnreadableAnswer,
    calls,
    tries,
)
from orderflow.sandbox.tokens import make_token

Ask = Callable[..., Awaitable[Any]]

WANTED: dict[str, Any] = {
    "items": {"pot-glass": 2},
    "payment_method": "card",
    "payment_token": "tok_approve",
    "email": "ada@shop.example",
}


@pytest.fixture
async def shop(api: Api) -> AsyncIterator[TroubledShop]:
    async with run_troubled_shop(api.client) as shop:
        yield shop


@pytest.fixture(params=["asyncio", "threads"])
def ask(request: pytest.FixtureRequest, shop: TroubledShop, api: Api) -> Ask:
    """Call a method of either client by its name; what it gives one by one comes as a list."""

    def usual() -> dict[str, Any]:
        return {"url": shop.url, "token": make_token(api.secret, "user-1")}

    async def in_loop(method: str, *args: Any, client: Any = None, **wanted: Any) -> Any:
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            Orders(**(usual() | (client or {})), http=http) as orders,
        ):
            given = getattr(orders, method)(*args, **wanted)
            return [one async for one in given] if inspect.isasyncgen(given) else await given

    def in_thread(method: str, *args: Any, client: Any = None, **wanted: Any) -> Any:
        with (
            httpx.Client(trust_env=False) as http,
            SyncOrders(**(usual() | (client or {})), http=http) as orders,
        ):
            given = getattr(orders, method)(*args, **wanted)
            return list(given) if inspect.isgenerator(given) else given

    async def beside(*args: Any, **wanted: Any) -> Any:
        return await asyncio.to_thread(in_thread, *args, **wanted)

    return in_loop if request.param == "asyncio" else beside


async def placed(api: Api) -> list[str]:
    orders = (await api.get("/orders")).json()["orders"]
    return [order["orderId"] for order in orders]


async def test_a_checkout_and_what_is_told_of_its_order(ask: Ask) -> None:
    address = Address(name="Ada", line1="Weg 1", postal_code="10115", city="Berlin", country="DE")
    receipt = await ask("checkout", **WANTED, language="de", shipping_address=address)
    assert (receipt.status, receipt.total, receipt.currency) == ("pending", Decimal("68.00"), "EUR")
    assert not receipt.replayed
    order = await ask("order", receipt.order_id)
    assert (order.order_id, order.payment.payment_id) == (receipt.order_id, receipt.payment_id)
    assert [(item.sku, item.quantity) for item in order.items] == [("pot-glass", 2)]
    assert order.shipping_address == address
    assert order.contact.email == "ada@shop.example"
    assert order.refunds == ()
    cancelled = await ask("cancel", receipt.order_id)
    assert cancelled.status == "cancelled"
    assert (await ask("cancel", receipt.order_id)).updated_at == cancelled.updated_at


async def test_a_connection_that_is_cut_makes_one_order(
    ask: Ask, shop: TroubledShop, api: Api
) -> None:
    made: list[str] = []
    for trouble in (lose_answer, cut_within, cut_before):
        shop.seen.clear()
        shop.plan = deque([trouble, trouble])
        receipt = await ask("checkout", **WANTED)
        made.append(str(receipt.order_id))
        assert receipt.replayed == (trouble is not cut_before)
        assert len(shop.seen) == 3
        assert len({request.headers["Idempotency-Key"] for request in shop.seen}) == 1
        assert len({request.body for request in shop.seen}) == 1
    assert await placed(api) == made[::-1]


async def test_an_answer_that_does_not_come_makes_one_order(
    ask: Ask, shop: TroubledShop, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "STEP_S", 0.5)
    shop.plan = deque([never_answer])
    receipt = await ask("checkout", **WANTED)
    assert receipt.replayed
    assert await placed(api) == [str(receipt.order_id)]


async def test_a_moment_that_is_wrong_passes(ask: Ask, shop: TroubledShop, api: Api) -> None:
    for status in tries.PASSING:
        shop.plan = deque([answer_with(status, b"<html>", Retry_After="0")])
        await ask("checkout", **WANTED)
        assert not shop.plan
    shop.plan = deque([answer_with(503)])
    assert len(await ask("orders")) == len(await placed(api)) == len(tries.PASSING)
    assert len(shop.seen) == 2 * len(tries.PASSING) + 2


async def test_a_shop_that_stays_away_is_given_up_and_asked_again_with_the_same_key(
    ask: Ask, shop: TroubledShop, api: Api
) -> None:
    shop.plan = deque([lose_answer, answer_with(503, Retry_After="3600")])
    with pytest.raises(Unanswered) as raised:
        await ask("checkout", **WANTED)
    assert (raised.value.status, raised.value.tries) == (503, 2)
    key = raised.value.idempotency_key
    assert key == shop.seen[0].headers["Idempotency-Key"].strip('"')
    receipt = await ask("checkout", **WANTED, idempotency_key=key)
    assert receipt.replayed
    assert await placed(api) == [str(receipt.order_id)]


async def test_nobody_at_the_address_is_told_after_the_deadline(ask: Ask) -> None:
    with pytest.raises(Unanswered) as raised:
        # Port 9 discards, and nobody is there.
        await ask("orders", client={"url": "http://127.0.0.1:9", "deadline_s": 0.3})
    assert raised.value.status is None
    assert "ConnectError" in str(raised.value)


async def test_what_is_sold_out_is_told_at_once_by_its_field(
    ask: Ask, shop: TroubledShop, sql: Any
) -> None:
    await sql.execute("UPDATE products SET stock = 1 WHERE sku = 'pot-glass'")
    with pytest.raises(Problem) as raised:
        await ask("checkout", **WANTED)
    problem = raised.value
    assert (problem.status, problem.kind) == (409, "out-of-stock")
    assert problem.members["sku"] == "pot-glass"
    [fault] = problem.errors["/items/0/quantity"]
    assert fault.rule == "in-stock"
    assert len(shop.seen) == 1


async def test_every_field_at_fault_is_named(ask: Ask, shop: TroubledShop) -> None:
    wrong = WANTED | {"items": {"pot-glass": 0}, "email": "nobody"}
    with pytest.raises(Problem) as raised:
        await ask("checkout", **wrong)
    assert raised.value.status == 422
    assert set(raised.value.errors) == {"/items/0/quantity", "/contact/email"}
    assert len(shop.seen) == 1


async def test_somebody_elses_order_is_not_there(ask: Ask, place: Any) -> None:
    theirs = await place(user="user-2")
    for method in ("order", "cancel", "events"):
        with pytest.raises(Problem) as raised:
            await ask(method, theirs)
        assert (raised.value.status, raised.value.kind) == (404, "order-not-found")


async def test_an_error_of_a_proxy_is_a_problem_too(ask: Ask, shop: TroubledShop) -> None:
    shop.plan = deque([answer_with(500, b"<html>nginx</html>", Content_Type="text/html")])
    with pytest.raises(Problem) as raised:
        await ask("checkout", **WANTED)
    assert (raised.value.status, raised.value.type) == (500, "about:blank")
    assert raised.value.detail == "Internal Server Error."


async def test_another_server_is_not_taken_for_the_shop(ask: Ask, shop: TroubledShop) -> None:
    shop.plan = deque([answer_with(200, b"<html>Log in</html>", Content_Type="text/html")] * 2)
    with pytest.raises(UnreadableAnswer, match="answered 200, but not by this API: Receipt"):
        await ask("checkout", **WANTED)
    with pytest.raises(UnreadableAnswer, match="Content-Type is text/html"):
        await ask("events", "any")


async def test_the_token_is_asked_for_at_each_try(ask: Ask, shop: TroubledShop, api: Api) -> None:
    made: list[str] = []

    def token() -> str:
        made.append(make_token(api.secret, "user-1", ttl_s=60 + len(made)))
        return made[-1]

    shop.plan = deque([cut_before])
    await ask("orders", client={"token": token})
    used = [request.headers["Authorization"] for request in shop.seen]
    assert used == [f"Bearer {one}" for one in made]
    assert len(set(used)) == 2


async def test_a_token_may_be_awaited(shop: TroubledShop, api: Api) -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return make_token(api.secret, "user-1")

    async with Orders(shop.url, token, http=httpx.AsyncClient(trust_env=False)) as orders:
        assert [order async for order in orders.orders()] == []
        await orders._http.aclose()


async def test_no_token_reaches_a_log_or_an_error(
    ask: Ask, shop: TroubledShop, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    token = make_token(api.secret, "user-1")
    caplog.set_level(logging.DEBUG)
    shop.plan = deque([cut_before, answer_with(503), answer_with(500)])
    with pytest.raises(Problem) as raised:
        await ask("checkout", **WANTED, client={"token": token})
    assert "POST /checkout again in" in caplog.text
    told = f"{raised.value} {raised.value!r} {raised.value.fields} {caplog.text}"
    for secret in (token, "tok_approve", "ada@shop.example"):
        assert secret not in told


async def test_a_list_is_read_page_by_page(
    ask: Ask, shop: TroubledShop, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await place() for _ in range(5)]
    await ask("cancel", ids[2])
    monkeypatch.setattr(calls, "PAGE_SIZE", 2)
    shop.seen.clear()
    # One of the pages has to be asked for twice, and is given once.
    shop.plan = deque([lose_answer, cut_within])
    listed = await ask("orders")
    assert [str(order.order_id) for order in listed] == ids[::-1]
    assert len(shop.seen) == 5
    [cancelled] = await ask("orders", status="cancelled")
    assert str(cancelled.order_id) == ids[2]


async def test_a_status_that_there_is_not_is_a_problem_of_the_query(ask: Ask) -> None:
    with pytest.raises(Problem) as raised:
        await ask("orders", status="lost")
    assert set(raised.value.errors) == {"status"}


async def test_admins_refund_ship_and_deliver_and_others_do_not(
    ask: Ask, shop: TroubledShop, api: Api, sql: Any
) -> None:
    receipt = await ask("checkout", **WANTED | {"payment_method": "cash"})
    await sql.execute("UPDATE payments SET status = 'completed'")
    await sql.execute("UPDATE orders SET status = 'confirmed'")
    with pytest.raises(Problem) as raised:
        await ask("ship", receipt.order_id, "Parcels Ltd", "0034")
    assert (raised.value.status, raised.value.kind) == (403, "forbidden")
    admin = {"token": make_token(api.secret, "olga", admin=True)}
    shop.plan = deque([lose_answer])
    shipment = await ask("ship", receipt.order_id, "Parcels Ltd", "0034", client=admin)
    assert (shipment.carrier, shipment.tracking_number) == ("Parcels Ltd", "0034")
    assert shipment.delivered_at is None
    shipment = await ask("deliver", receipt.order_id, reason="seen", client=admin)
    assert shipment.delivered_at is not None
    # The answer is lost, and yet the money is given back once.
    shop.plan = deque([lose_answer])
    refund = await ask("refund", receipt.order_id, Decimal("8.00"), client=admin)
    assert (refund.amount, refund.currency) == (Decimal("8.00"), "EUR")
    order = await ask("order", receipt.order_id, client=admin)
    assert [one.refund_id for one in order.refunds] == [refund.refund_id]
    assert order.user_id == "user-1"
    with pytest.raises(Problem) as raised:
        await ask("refund", receipt.order_id, Decimal("1000.00"), client=admin)
    assert raised.value.kind == "refund-too-large"


def event(name: str, event_id: str, status: str, payment: str) -> str:
    data = (
        f'{{"orderId":"01a20e5f-6a42-759b-9803-1b7f04d1a4ae","status":"{status}",'
        f'"at":"2026-01-31T12:00:00.000Z","payment":{{"status":"{payment}","declineReason":null}},'
        '"shipment":null,"refunds":[]}'
    )
    return f"event: {name}\nid: {event_id}\ndata: {data}\n\n"


async def test_a_stream_that_is_cut_goes_on_where_it_was(ask: Ask, shop: TroubledShop) -> None:
    pending = event("status", "pending.pending.0", "pending", "pending")
    confirmed = event("status", "confirmed.completed.0", "confirmed", "completed")
    delivered = event("status", "delivered.completed.0", "delivered", "completed")
    end = 'event: end\nid: delivered.completed.0\ndata: {"orderId":"any"}\n\n'
    shop.plan = deque(
        [
            answer_with(503, Retry_After="0"),
            # Cut within an event, and within a line: what is not whole is not told.
            stream("retry: 10\n\n", pending[:20], pending[20:], ":\n\n", confirmed[:-30]),
            cut_before,
            stream(":\n\n", confirmed),
            stream("retry: 20\n\n"),
            stream(delivered + end),
        ]
    )
    told = await ask("events", "any")
    assert [status.status for status in told] == ["pending", "confirmed", "delivered"]
    assert [request.headers.get("Last-Event-ID") for request in shop.seen] == [
        None,
        None,
        "pending.pending.0",
        "pending.pending.0",
        "confirmed.completed.0",
        "confirmed.completed.0",
    ]
    assert not shop.plan


async def test_a_stream_that_is_over_ends_at_once(ask: Ask, shop: TroubledShop) -> None:
    shop.plan = deque([answer_with(204)])
    assert await ask("events", "any", after="delivered.completed.0") == []
    assert shop.seen[0].headers["Last-Event-ID"] == "delivered.completed.0"
