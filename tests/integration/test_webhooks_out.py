"""Webhooks that go out: each change of an order is told at least once to who wants to know."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from standardwebhooks.webhooks import WebhookVerificationError
from tests.conftest import Program, process_environment, start_program
from tests.integration.conftest import PlaceOrder
from tests.integration.life import charge, give_back
from tests.integration.receiver import Receiver, receiving
from tests.integration.tls import make_certificates
from tests.integration.working import ADA, until

from orderflow.cancel import cancel_order
from orderflow.exporter.webhooks import count_webhooks, webhook_metrics
from orderflow.operations.audit import list_actions
from orderflow.refund import request_refund
from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.shipping import deliver_order, ship_order
from orderflow.webhooks import posting
from orderflow.webhooks.courier import PLACES, Courier
from orderflow.webhooks.deliveries import (
    DeliveryStatus,
    get_delivery,
    list_deliveries,
    purge_deliveries,
    resend,
    resend_given_up,
)
from orderflow.webhooks.endpoints import (
    add_endpoint,
    disable_endpoint,
    enable_endpoint,
    get_endpoint,
    remove_endpoint,
    rotate_secret,
)
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.retries import DELAYS_S
from orderflow.webhooks.targets import Targets
from orderflow.webhooks.transport import GuardedTransport

ANYWHERE = Targets(allow_private=True)

Sql = asyncpg.Connection
Add = Callable[..., Awaitable[Any]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(_env_file=None, **settings.model_dump() | {"webhooks_allow_private": True})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def courier(resources: Resources) -> AsyncIterator[Courier]:
    async with GuardedTransport(ANYWHERE) as transport:
        yield Courier(resources.db, transport)


@pytest.fixture
def add(resources: Resources) -> Add:
    """Add an endpoint, and return it with its secret."""

    async def add(receiver: Receiver, *types: EventType) -> Any:
        return await add_endpoint(
            receiver.url, types or list(EventType), "", ADA, db=resources.db, targets=ANYWHERE
        )

    return add


async def paid(resources: Resources, place: PlaceOrder, orders: int = 1) -> list[Any]:
    """Orders that are confirmed."""
    receipts = [await place() for _ in range(orders)]
    for receipt in receipts:
        assert (await charge(resources, receipt))["success"]
    return receipts


async def make_due(sql: Sql) -> None:
    """Let the time of all that waits have come."""
    await sql.execute("UPDATE webhook_deliveries SET due_at = now() WHERE due_at IS NOT NULL")


async def only(resources: Resources, endpoint: Any) -> Any:
    """The only delivery to the endpoint."""
    [delivery] = await list_deliveries(endpoint.id, db=resources.db)
    return delivery


async def test_each_change_of_an_order_is_told_as_it_was_then(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    db, queues = resources.db, resources.queues
    secret = (await add(receiver)).secret
    [order] = await paid(resources, place)
    key = str(order.order_id)
    await ship_order(key, "Parcels Ltd", "0034", db=db, queues=queues)
    refund = await request_refund(key, None, "key", db=db, queues=queues)
    await give_back(resources, order, refund.refund_id)
    await deliver_order(key, db=db, queues=queues)
    declined = await place(paymentToken="tok_decline")
    assert not (await charge(resources, declined))["success"]
    called_off = await place()
    await cancel_order(str(called_off.order_id), db=db, queues=queues)
    # What is said again is told once.
    await deliver_order(key, db=db, queues=queues)
    await cancel_order(str(called_off.order_id), db=db, queues=queues)
    await charge(resources, order)

    assert await courier.run_once() == 6
    told = {got.id: got.verified(secret) for got in receiver.got}
    assert set(told) == {
        f"order_confirmed_{key}",
        f"order_shipped_{key}",
        f"order_refunded_{refund.refund_id}",
        f"order_delivered_{key}",
        f"order_cancelled_{declined.order_id}",
        f"order_cancelled_{called_off.order_id}",
    }
    confirmed = told[f"order_confirmed_{key}"]
    assert confirmed["type"] == "order.confirmed"
    data = confirmed["data"]
    assert (data["orderId"], data["status"]) == (key, "confirmed")
    assert (data["total"], data["currency"]) == (str(order.total), order.currency)
    [item] = data["items"]
    assert (item["sku"], item["quantity"], item["total"]) == ("pot-glass", 2, data["total"])
    assert data["payment"]["method"] == "card"
    # It was delivered since, and given back: that was not so then.
    assert (data["shipment"], data["refund"]) == (None, None)
    shipped = told[f"order_shipped_{key}"]["data"]
    assert shipped["status"] == "shipped"
    assert shipped["shipment"]["trackingNumber"] == "0034"
    assert shipped["shipment"]["deliveredAt"] is None
    delivered = told[f"order_delivered_{key}"]["data"]
    assert delivered["shipment"]["deliveredAt"] is not None
    refunded = told[f"order_refunded_{refund.refund_id}"]["data"]
    assert refunded["status"] == "shipped"
    assert refunded["refund"] == {
        "refundId": str(refund.refund_id),
        "cause": "request",
        "amount": str(order.total),
        "currency": order.currency,
    }
    declines = told[f"order_cancelled_{declined.order_id}"]["data"]["payment"]["declineReason"]
    assert declines
    assert await courier.run_once() == 0


async def test_nobody_can_see_from_it_who_the_customer_is(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    await add(receiver)
    contact = {"email": "ada@shop.example", "phone": "+4915112345678"}
    address = {"name": "Ada Lovelace", "line1": "Musterweg 1", "postalCode": "10115"}
    where = address | {"city": "Berlin", "country": "DE"}
    order = await place(contact=contact, shippingAddress=where)
    await charge(resources, order)
    await courier.run_once()
    [got] = receiver.got
    for hidden in (*contact.values(), *address.values(), "tok_", "user-1"):
        assert hidden.encode() not in got.body
    assert got.headers["user-agent"].startswith("orderflow/")
    assert got.headers["content-type"] == "application/json"


async def test_only_who_is_there_and_wants_to_is_told(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, sql: Sql
) -> None:
    await paid(resources, place)
    assert await sql.fetchval("SELECT count(*) FROM webhook_deliveries") == 0
    shipped = await add(receiver, EventType.SHIPPED)
    confirmed, both = await add(receiver, EventType.CONFIRMED), await add(receiver)
    off = (await add(receiver)).endpoint
    await disable_endpoint(off.id, "by ada", ADA, db=resources.db)
    await paid(resources, place)
    rows = await sql.fetch("SELECT endpoint_id, type FROM webhook_deliveries")
    assert {(row["endpoint_id"], row["type"]) for row in rows} == {
        (confirmed.endpoint.id, "order.confirmed"),
        (both.endpoint.id, "order.confirmed"),
    }
    assert await list_deliveries(shipped.endpoint.id, db=resources.db) == []


async def test_what_is_not_committed_is_not_told(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, sql: Sql
) -> None:
    await add(receiver)
    [order] = await paid(resources, place)

    async def undone() -> None:
        async with resources.db.transaction() as transaction:
            args = (order.order_id, "shipped", ["confirmed"], order.payment_id, "order-shipped", {})
            await transaction.fetch("advance_order", *args)
            raise LookupError

    with pytest.raises(LookupError):
        await undone()
    types = await sql.fetch("SELECT type FROM webhook_deliveries")
    assert [row["type"] for row in types] == ["order.confirmed"]


async def test_what_failed_is_tried_again_under_the_same_id(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    added = await add(receiver)
    receiver.statuses, receiver.body = [500, 404], b"ask ada@shop.example\x00 or\nthe cook"
    await paid(resources, place)

    await courier.run_once()
    delivery = await only(resources, added.endpoint)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.WAITING, 1)
    [attempt] = delivery.last_attempts
    assert (attempt.status_code, attempt.error) == (500, None)
    assert attempt.answer == "ask ***@***  or the cook"
    wait = await sql.fetchval(
        "SELECT extract(epoch FROM d.due_at - a.at) FROM webhook_deliveries d, webhook_attempts a"
    )
    assert DELAYS_S[0] * 0.9 <= wait <= DELAYS_S[0] * 1.1
    assert await courier.run_once() == 0, "it is not due yet"

    for _ in range(2):
        await make_due(sql)
        await courier.run_once()
    delivery = await only(resources, added.endpoint)
    assert (delivery.status, delivery.due_at) == (DeliveryStatus.DELIVERED, None)
    assert [a.status_code for a in delivery.last_attempts] == [204, 404, 500]
    assert len({got.id for got in receiver.got}) == len({got.body for got in receiver.got}) == 1
    assert all(got.verified(added.secret) for got in receiver.got)
    endpoint = await get_endpoint(added.endpoint.id, db=resources.db)
    assert endpoint.reached_at is not None


async def test_an_endpoint_says_when_to_come_again(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    await add(receiver)
    await paid(resources, place)
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    receiver.status = 503
    for said, least, most in (
        ("120", 120, 120),
        (in_an_hour, 3_500, 3_600),
        ("soon", DELAYS_S[2] * 0.9, DELAYS_S[2] * 1.1),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", DELAYS_S[3] * 0.9, DELAYS_S[3] * 1.1),
    ):
        receiver.headers = {"retry-after": said}
        await make_due(sql)
        await courier.run_once()
        wait = await sql.fetchval(
            "SELECT extract(epoch FROM d.due_at - max(a.at)) FROM webhook_deliveries d "
            "JOIN webhook_attempts a ON a.delivery_id = d.id GROUP BY d.id"
        )
        # The second is larger than what the list of delays has, as was the first.
        assert least <= wait <= most, said


async def give_up(courier: Courier, sql: Sql) -> None:
    for _ in range(len(DELAYS_S) + 1):
        await make_due(sql)
        assert await courier.run_once() >= 1


async def test_what_is_given_up_is_shown_and_goes_out_once_somebody_has_looked(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    db, added = resources.db, await add(receiver)
    receiver.status = 500
    await paid(resources, place)
    await give_up(courier, sql)

    delivery = await only(resources, added.endpoint)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.GIVEN_UP, len(DELAYS_S) + 1)
    # Nothing got through in all that time.
    endpoint = await get_endpoint(added.endpoint.id, db=db)
    assert (endpoint.enabled, endpoint.given_up) == (False, 1)
    assert endpoint.disabled_because == "nothing got through for days"
    [action] = await list_actions(db=db, action="disable webhook")
    assert (action.user, action.via, action.outcome) == ("orderflow", "worker", "done")

    assert await resend_given_up(endpoint.id, ADA, db=db) == 1
    assert await courier.run_once() == 0, "it waits for the endpoint"
    receiver.status = 200
    await enable_endpoint(endpoint.id, ADA, db=db)
    assert await courier.run_once() == 1
    assert (await only(resources, endpoint)).status is DeliveryStatus.DELIVERED
    assert len({got.id for got in receiver.got}) == 1


async def test_an_endpoint_that_takes_others_goes_on(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    added = await add(receiver)
    receiver.status = 422
    await paid(resources, place)
    await courier.run_once()
    receiver.status = 200
    # Delivered in between, and not within the minute that is told apart.
    await sql.execute("UPDATE webhook_endpoints SET reached_at = now()")
    receiver.status = 422
    for _ in range(len(DELAYS_S)):
        await make_due(sql)
        await courier.run_once()
    endpoint = await get_endpoint(added.endpoint.id, db=resources.db)
    assert (endpoint.enabled, endpoint.given_up) == (True, 1)


async def test_one_that_is_gone_is_told_nothing_more_and_nothing_is_lost(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    db, added = resources.db, await add(receiver)
    receiver.status = 410
    await paid(resources, place, 3)
    assert await courier.run_once() == 3
    endpoint = await get_endpoint(added.endpoint.id, db=db)
    assert (endpoint.enabled, endpoint.disabled_because) == (False, "it answered 410 Gone")
    assert endpoint.waiting == 3
    assert await courier.run_once() == 0
    # All three were answered so at the same time.
    actions = await list_actions(db=db, action="disable webhook")
    assert [action.details["was disabled"] for action in actions].count(False) == 1

    receiver.status = 200
    await enable_endpoint(endpoint.id, ADA, db=db)
    assert await courier.run_once() == 3
    assert (await get_endpoint(endpoint.id, db=db)).waiting == 0


async def test_many_workers_tell_each_thing_once(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add
) -> None:
    await add(receiver)
    await paid(resources, place, 40)
    async with GuardedTransport(ANYWHERE) as transport:
        couriers = [Courier(resources.db, transport) for _ in range(4)]
        while sum(await asyncio.gather(*(courier.run_once() for courier in couriers))):
            pass
    assert len(receiver.got) == len({got.id for got in receiver.got}) == 40


async def test_a_slow_endpoint_holds_up_no_other(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    async with receiving() as slow:
        slow.open.clear()
        await add(slow)
        await add(receiver)
        await paid(resources, place, PLACES + 4)
        stop = asyncio.Event()
        running = asyncio.create_task(courier.run(stop))
        await until(lambda: _is(len(receiver.got) == PLACES + 4))
        await until(lambda: _is(len(slow.got) == PLACES))
        # Whoever stops ends what is under way, and begins nothing.
        stop.set()
        slow.open.set()
        await running
        assert len(slow.got) == PLACES
        assert await courier.run_once() == 4


async def _is(true: bool) -> bool:
    return true


async def test_what_happens_is_told_without_being_asked_for(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    await add(receiver)
    stop = asyncio.Event()
    running = asyncio.create_task(courier.run(stop))
    for count in (1, 2):
        await paid(resources, place)
        await until(lambda count=count: _is(len(receiver.got) == count))
    stop.set()
    await running


@pytest.fixture
async def workers(settings: Settings, tmp_path: Path) -> AsyncIterator[Callable[[], Program]]:
    """Start order workers, which are gone at the end."""
    started: list[Program] = []

    def start() -> Program:
        environment = process_environment(settings) | {"WEBHOOKS_ALLOW_PRIVATE": "true"}
        started.append(
            start_program(
                tmp_path / f"order-{len(started)}.log",
                "orderflow.worker",
                "order",
                environment=environment,
            )
        )
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            os.killpg(program.process.pid, signal.SIGKILL)
            await asyncio.to_thread(program.process.wait)


async def test_a_worker_that_dies_over_it_leaves_it_to_another(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    workers: Callable[[], Program],
    sql: Sql,
) -> None:
    added = await add(receiver)
    receiver.open.clear()
    await paid(resources, place)
    worker = workers()
    await until(lambda: _is(len(receiver.got) == 1))
    os.killpg(worker.process.pid, signal.SIGKILL)
    await asyncio.to_thread(worker.process.wait)
    receiver.open.set()
    delivery = await only(resources, added.endpoint)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.WAITING, 1)
    assert delivery.due_at > datetime.now(UTC), "its claim goes on"

    await make_due(sql)
    worker = workers()
    await until(lambda: _delivered(resources, added.endpoint))
    assert [got.id for got in receiver.got] == [receiver.got[0].id] * 2
    assert all(got.verified(added.secret) for got in receiver.got)
    worker.process.terminate()
    assert await asyncio.to_thread(worker.process.wait, 30) == 0
    # A secret is nowhere in what a worker says.
    assert added.secret.removeprefix("whsec_") not in worker.log.read_text()


async def _delivered(resources: Resources, endpoint: Any) -> bool:
    return bool((await only(resources, endpoint)).status is DeliveryStatus.DELIVERED)


async def test_one_that_slept_past_its_claim_decides_only_if_it_was_taken(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    added = await add(receiver)
    receiver.open.clear()
    receiver.statuses = [500, 204]
    await paid(resources, place)
    sleeper = asyncio.create_task(courier.run_once())
    await until(lambda: _is(len(receiver.got) == 1))
    await make_due(sql)
    async with GuardedTransport(ANYWHERE) as transport:
        second = asyncio.create_task(Courier(resources.db, transport).run_once())
        await until(lambda: _is(len(receiver.got) == 2))
        receiver.open.set()
        await asyncio.gather(sleeper, second)
    delivery = await only(resources, added.endpoint)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DELIVERED, 2)
    assert {a.status_code for a in delivery.last_attempts} == {500, 204}


async def test_the_old_secret_signs_for_a_day_more(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    old = await add(receiver)
    new = await rotate_secret(old.endpoint.id, ADA, db=resources.db)
    assert new.secret != old.secret
    assert new.endpoint.secret != old.endpoint.secret
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    assert abs(new.endpoint.old_secret_until - in_a_day) < timedelta(minutes=5)
    await paid(resources, place)
    await courier.run_once()
    assert receiver.got[0].verified(new.secret) == receiver.got[0].verified(old.secret)

    await sql.execute("UPDATE webhook_endpoints SET old_secret_until = now()")
    await paid(resources, place)
    await courier.run_once()
    receiver.got[1].verified(new.secret)
    with pytest.raises(WebhookVerificationError):
        receiver.got[1].verified(old.secret)


async def test_a_redirect_is_not_followed(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    added = await add(receiver)
    async with receiving() as other:
        receiver.status, receiver.headers = 307, {"location": other.url}
        await paid(resources, place)
        await courier.run_once()
        assert other.got == []
    [attempt] = (await only(resources, added.endpoint)).last_attempts
    assert attempt.status_code == 307


async def test_of_a_long_answer_only_the_beginning_is_read(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    added = await add(receiver)
    # More is promised than ever comes.
    receiver.headers, receiver.body = {"content-length": "1000000000"}, b"<p>" * 20_000
    receiver.status = 200
    await paid(resources, place)
    await courier.run_once()
    delivery = await only(resources, added.endpoint)
    assert delivery.status is DeliveryStatus.DELIVERED
    assert len(delivery.last_attempts[0].answer) == 1_000


async def test_no_answer_is_a_failure_that_says_so(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added = await add(receiver)
    receiver.open.clear()
    monkeypatch.setattr(posting, "TOTAL_S", 0.1)
    await paid(resources, place)
    await courier.run_once()
    [attempt] = (await only(resources, added.endpoint)).last_attempts
    assert (attempt.status_code, attempt.error) == (None, "no answer within 0.1 s")

    async with receiving() as closed:
        pass
    refusing = await add(closed)
    monkeypatch.undo()
    await paid(resources, place)
    receiver.open.set()
    await courier.run_once()
    [attempt] = (await only(resources, refusing.endpoint)).last_attempts
    assert attempt.error.startswith("ConnectError")


class Resolver:
    """Answers each question with the next of its answers."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.left = list(answers)

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        return self.left.pop(0)


async def test_a_name_that_leads_elsewhere_a_moment_later_leads_nowhere(
    resources: Resources, place: PlaceOrder, receiver: Receiver, sql: Sql
) -> None:
    resolver = Resolver(["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "169.254.169.254"])
    targets = Targets(resolve=resolver)
    added = await add_endpoint(
        "https://hooks.example/orders",
        list(EventType),
        "",
        ADA,
        db=resources.db,
        targets=targets,
    )
    # The port is the receiver's, which would take what came to it.
    url = f"https://hooks.example:{receiver.port}/orders"
    await sql.execute("UPDATE webhook_endpoints SET url = $1", url)
    await paid(resources, place)
    async with GuardedTransport(targets) as transport:
        courier = Courier(resources.db, transport)
        await courier.run_once()
        await make_due(sql)
        await courier.run_once()
    assert (receiver.got, resolver.left) == ([], [])
    attempts = (await only(resources, added.endpoint)).last_attempts
    assert ["127.0.0.1" in a.error for a in attempts] == [False, True]
    assert ["169.254.169.254" in a.error for a in attempts] == [True, False]


async def test_the_connection_goes_to_the_address_that_was_looked_at_and_proves_its_name(
    resources: Resources, place: PlaceOrder, sql: Sql, tmp_path: Path
) -> None:
    ca_file, context = make_certificates(tmp_path / "tls", "hooks.example")
    # The system knows no such names, and each question has one answer: it is asked once.
    resolver = Resolver(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])
    targets = Targets(allow_private=True, resolve=resolver)
    async with receiving(context) as receiver:
        for host in ("hooks.example", "other.example"):
            url = f"https://{host}:{receiver.port}/orders"
            await add_endpoint(url, list(EventType), host, ADA, db=resources.db, targets=targets)
        await paid(resources, place)
        verify = ssl.create_default_context(cafile=ca_file)
        async with GuardedTransport(targets, verify) as transport:
            assert await Courier(resources.db, transport).run_once() == 2
        [got] = receiver.got
    assert got.headers["host"] == f"hooks.example:{receiver.port}"
    assert resolver.left == []
    [failed] = await sql.fetch("SELECT error FROM webhook_attempts WHERE error IS NOT NULL")
    assert "certificate verify failed" in failed["error"]


async def test_one_that_was_delivered_can_be_sent_again(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, courier: Courier
) -> None:
    db, added = resources.db, await add(receiver)
    await paid(resources, place)
    await courier.run_once()
    delivery = await only(resources, added.endpoint)
    again = await resend(added.endpoint.id, delivery.id, ADA, db=db)
    assert again.status is DeliveryStatus.WAITING
    await courier.run_once()
    assert [got.body for got in receiver.got] == [receiver.got[0].body] * 2
    assert [got.id for got in receiver.got] == [delivery.message_id] * 2
    assert (await get_delivery(added.endpoint.id, delivery.id, db=db)).attempts == 2


async def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(
    resources: Resources,
    place: PlaceOrder,
    receiver: Receiver,
    add: Add,
    courier: Courier,
    sql: Sql,
) -> None:
    added = await add(receiver)
    await paid(resources, place, 2)
    receiver.statuses = [500]
    await courier.run_once()
    assert await purge_deliveries(db=resources.db) == 0
    await sql.execute(
        "UPDATE webhook_deliveries SET happened_at = now() - interval '90 days', "
        "ended_at = ended_at - interval '31 days'"
    )
    assert await purge_deliveries(db=resources.db) == 1
    assert (await only(resources, added.endpoint)).status is DeliveryStatus.WAITING
    assert await sql.fetchval("SELECT count(*) FROM webhook_attempts") == 1

    assert await remove_endpoint(added.endpoint.id, ADA, db=resources.db) == 1
    assert await sql.fetchval("SELECT count(*) FROM webhook_deliveries") == 0
    assert await sql.fetchval("SELECT count(*) FROM webhook_endpoints") == 0


async def test_what_waits_is_counted(
    resources: Resources, place: PlaceOrder, receiver: Receiver, add: Add, sql: Sql
) -> None:
    async def counted() -> dict[tuple[str, ...], float]:
        metrics = webhook_metrics(await count_webhooks(resources.db))
        return {
            (sample.name, *sample.labels.values()): sample.value
            for metric in metrics
            for sample in metric.samples
        }

    assert set((await counted()).values()) == {0}
    await add(receiver)
    off = (await add(receiver)).endpoint
    await paid(resources, place, 2)
    await disable_endpoint(off.id, "by ada", ADA, db=resources.db)
    await sql.execute("UPDATE webhook_deliveries SET happened_at = now() - interval '1 hour'")
    found = await counted()
    assert found["orderflow_webhook_endpoints", "enabled"] == 1
    assert found["orderflow_webhook_endpoints", "disabled"] == 1
    assert found["orderflow_webhooks_waiting",] == 2
    assert 3_600 <= found["orderflow_webhooks_oldest_waiting_seconds",] < 4_000


async def test_no_secret_is_written_down(
    resources: Resources, receiver: Receiver, add: Add, sql: Sql
) -> None:
    added = await add(receiver)
    rotated = await rotate_secret(added.endpoint.id, ADA, db=resources.db)
    audit = json.dumps(
        [dict(row) for row in await sql.fetch("SELECT * FROM audit_log")], default=str
    )
    shown = (
        f"{audit} {added!r} {rotated!r} {await get_endpoint(added.endpoint.id, db=resources.db)}"
    )
    for secret in (added.secret, rotated.secret):
        assert secret.removeprefix("whsec_") not in shown
    assert added.endpoint.secret in audit
    assert "/hooks" not in audit, "a URL may have a secret in its path"
