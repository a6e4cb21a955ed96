"""What a gateway tells by itself: checked, kept once, done by the order worker, and never lost."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from bullmq import UnrecoverableError
from tests.conftest import SECRET, process_environment, start_program, wait_until
from tests.integration.life import charge
from tests.integration.reconciling import run
from tests.integration.stripe_server import (
    API_KEY,
    CAREFUL,
    WEBHOOK_SECRET,
    Fault,
    Stripe,
    at_stripe,
    signed,
)
from tests.integration.working import until

from orderflow.api.app import create_app
from orderflow.bull.states import JobState
from orderflow.charge import expire_payment
from orderflow.contract import gateway_event_job, order_confirmation_job, payment_failed_job
from orderflow.errors import GatewayUnavailable
from orderflow.invariants import count_violations
from orderflow.operations.story import tell_story
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings
from orderflow.testing import perform_job

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def settings(settings: Settings, stripe: Stripe) -> Settings:
    return at_stripe(settings, stripe)


@pytest.fixture
async def api(settings: Settings, resources: Resources) -> AsyncIterator[httpx.AsyncClient]:
    assert resources
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client,
    ):
        yield client


@pytest.fixture
async def waiting(resources: Resources, place: Any, stripe: Stripe) -> Any:
    """The receipt of an order whose customer has to act."""
    receipt = await place(paymentToken=stripe.card(CAREFUL))
    result = await charge(resources, receipt)
    assert result["reason"] == "requires_action"
    return receipt


def event(key: object, kind: str = "succeeded", number: int = 1, **intent: Any) -> dict[str, Any]:
    """Return an event of a payment as Stripe sends it."""
    return {
        "id": f"evt_{number}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "type": f"payment_intent.{kind}",
        "livemode": False,
        "data": {
            "object": {
                "id": "pi_1",
                "object": "payment_intent",
                "metadata": {"orderflow_payment": str(key)},
                "status": "succeeded",
            }
            | intent
        },
    }


async def tell(
    api: httpx.AsyncClient, told: dict[str, Any], *, gateway: str = "stripe", at: float = 0
) -> httpx.Response:
    body, signature = signed(told, int(time.time() + at))
    headers = {"Stripe-Signature": signature}
    return await api.post(f"/webhooks/{gateway}", content=body, headers=headers)


async def handle(resources: Resources, number: int = 1) -> dict[str, Any]:
    job = gateway_event_job("stripe", f"evt_{number}")
    return await perform_job("order", job.name, dict(job.data), resources)


async def order(sql: Any) -> tuple[str, str]:
    row = await sql.fetchrow(
        "SELECT o.status, p.status AS paid FROM orders o JOIN payments p ON p.order_id = o.id"
    )
    return row["status"], row["paid"]


async def test_an_event_that_says_paid_confirms_the_order(api, resources, waiting, stripe, sql):
    [intent] = stripe.intents(waiting.payment_id)
    told = event(waiting.payment_id, id=intent["id"])
    answer = await tell(api, told)
    assert (answer.status_code, answer.json()) == (200, {"eventId": "evt_1", "new": True})
    assert await order(sql) == ("processing", "requires_action"), "the answer waits for nothing"
    job = gateway_event_job("stripe", "evt_1")
    assert await resources.queues.states([job]) == [JobState.LIVE]

    asked = len(stripe.asked)
    assert await handle(resources) == {"success": True, "done": "payment settled"}
    assert await order(sql) == ("confirmed", "completed")
    assert len(stripe.asked) == asked, "it is believed"
    told = order_confirmation_job(str(waiting.order_id), "user-1")
    assert await resources.queues.states([told]) == [JobState.LIVE]
    assert await handle(resources) == {"success": True, "done": "payment settled"}, "once"
    story = await tell_story(str(waiting.order_id), db=resources.db, queues=resources.queues)
    [heard] = [entry.what for entry in story.events if entry.kind == "gateway"]
    assert heard == "stripe told of payment_intent.succeeded: payment settled"


async def test_an_event_that_comes_twice_is_kept_once(api, waiting, sql):
    told = event(waiting.payment_id)
    answers = [(await tell(api, told)).json()["new"] for _ in range(3)]
    assert answers == [True, False, False]
    assert await sql.fetchval("SELECT count(*) FROM gateway_events") == 1


async def test_events_out_of_order_end_as_the_gateway_has_it(api, resources, waiting, stripe, sql):
    """What is told last is that the customer has to act, and that a first card was declined."""
    [intent] = stripe.intents(waiting.payment_id)
    stripe.authenticate(intent, success=True)
    for number, kind in enumerate(("succeeded", "payment_failed", "requires_action"), 1):
        await tell(api, event(waiting.payment_id, kind, number, id=intent["id"]))
    assert (await handle(resources, 3))["done"] == "payment settled", "it was asked about"
    assert await order(sql) == ("confirmed", "completed")
    for number in (2, 1):
        assert (await handle(resources, number))["done"] == "nothing to do"
    assert await order(sql) == ("confirmed", "completed")
    assert await sql.fetchval("SELECT count(*) FROM stray_charges") == 0


async def test_a_customer_who_fails_cancels_the_order(api, resources, waiting, stripe, sql):
    [intent] = stripe.intents(waiting.payment_id)
    stripe.authenticate(intent, success=False)
    await tell(api, event(waiting.payment_id, "payment_failed"))
    assert (await handle(resources))["done"] == "payment settled"
    assert await order(sql) == ("cancelled", "failed")
    told = payment_failed_job(str(waiting.order_id), "user-1", "")
    assert await resources.queues.states([told]) == [JobState.LIVE]


async def test_an_event_of_a_payment_that_waits_still_changes_nothing(api, resources, waiting, sql):
    await tell(api, event(waiting.payment_id, "requires_action"))
    assert (await handle(resources))["done"] == "nothing to do"
    assert await order(sql) == ("processing", "requires_action")


async def test_while_the_gateway_is_away_the_event_is_tried_again(api, resources, waiting, stripe):
    await tell(api, event(waiting.payment_id, "payment_failed"))
    [intent] = stripe.intents(waiting.payment_id)
    stripe.faults.append(Fault(intent["id"], 503))
    with pytest.raises(GatewayUnavailable):
        await handle(resources)


async def test_money_that_nobody_has_a_use_for_is_written_down(
    api, resources, waiting, stripe, sql
):
    assert await expire_payment(waiting.payment_id, 0, resources.db)
    [intent] = stripe.intents(waiting.payment_id)
    await tell(api, event(waiting.payment_id, id=intent["id"]))
    assert (await handle(resources))["done"] == "nothing to do"
    assert await order(sql) == ("cancelled", "failed")
    assert await sql.fetchval("SELECT transaction_id FROM stray_charges") == intent["id"]


async def test_a_second_charge_of_a_payment_is_written_down(api, resources, waiting, sql):
    for number in (1, 2):
        await tell(api, event(waiting.payment_id, number=number, id=f"pi_{number}"))
        await handle(resources, number)
    assert await order(sql) == ("confirmed", "completed")
    assert await sql.fetchval("SELECT transaction_id FROM stray_charges") == "pi_2"


async def test_an_event_of_an_unknown_payment_is_kept_until_it_is_known(
    api, resources, sql, settings
):
    key = "a-payment-of-node"
    await tell(api, event(key))
    unknown = {"success": False, "done": "unknown payment"}
    assert await handle(resources) == unknown
    counted = await count_violations(resources.db, settings, 1_000)
    assert counted["events_of_unknown_payments"] == 1

    job = gateway_event_job("stripe", "evt_1")
    await resources.queues.remove(job)
    assert (await run(resources)).events_put_back == 0
    await resources.db.fetchrow(
        "adopt_payment",
        *(await sql.fetchrow("SELECT gen_random_uuid(), 'order-17'")),
        *(await sql.fetchrow("SELECT payment_id, $1 FROM gateway_events", key)),
        *("card", 1, "EUR"),
    )
    assert (await run(resources)).events_put_back == 1
    assert await handle(resources) == {"success": True, "done": "payment settled"}
    assert await order(sql) == ("confirmed", "completed")
    counted = await count_violations(resources.db, settings, 1_000)
    assert counted["events_of_unknown_payments"] == 0


async def test_an_event_whose_job_was_lost_gets_it_back(api, resources, waiting, redis, settings):
    await tell(api, event(waiting.payment_id))
    job = gateway_event_job("stripe", "evt_1")
    assert (await run(resources)).events_put_back == 0, "its job waits"
    await resources.queues.remove(job)
    assert (await run(resources)).events_put_back == 1
    prefix = f"{settings.queue_prefix}:{job.queue}"
    redis.zrem(f"{prefix}:prioritized", job.job_id)
    redis.zadd(f"{prefix}:failed", {job.job_id: 1})
    assert (await run(resources)).events_put_back == 1
    assert await resources.queues.states([job]) == [JobState.LIVE]
    await handle(resources)
    await resources.queues.remove(job)
    assert (await run(resources)).events_put_back == 0, "it is done"


async def test_events_that_are_done_are_forgotten_after_a_month(api, resources, waiting, sql):
    for number in (1, 2, 3):
        await tell(api, event(waiting.payment_id, number=number))
    for number in (1, 2):
        await handle(resources, number)
    await sql.execute(
        """UPDATE gateway_events SET handled_at = now() - interval '31 days'
           WHERE event_id = 'evt_1'"""
    )
    await run(resources)
    rows = await sql.fetch("SELECT event_id FROM gateway_events ORDER BY event_id")
    assert [row["event_id"] for row in rows] == ["evt_2", "evt_3"]


async def test_a_job_of_no_event_fails_at_once(resources):
    with pytest.raises(UnrecoverableError, match="'stripe' told of no event 'evt_1'"):
        await handle(resources)


# What is not taken


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ({}, 0),
        ({"Stripe-Signature": "nonsense"}, 0),
        ({"Stripe-Signature": "t=1,v0=00"}, 0),
        (None, -301),
    ],
    ids=["none", "nonsense", "other scheme", "too old"],
)
async def test_what_the_gateway_did_not_sign_is_refused(api, sql, headers, at):
    body, signature = signed(event("p"), int(time.time() + at))
    headers = {"Stripe-Signature": signature} if headers is None else headers
    answer = await api.post("/webhooks/stripe", content=body, headers=headers)
    assert answer.status_code == 400
    [fault] = answer.json()["errors"]
    assert (fault["field"], fault["rule"]) == ("Stripe-Signature", "signature-of-the-gateway")
    assert await sql.fetchval("SELECT count(*) FROM gateway_events") == 0


async def test_one_byte_that_was_not_signed_is_refused(api):
    body, signature = signed(event("p"), int(time.time()))
    headers = {"Stripe-Signature": signature}
    answer = await api.post("/webhooks/stripe", content=body + b" ", headers=headers)
    assert answer.status_code == 400
    assert WEBHOOK_SECRET not in answer.text


async def test_another_secret_signs_nothing(api):
    body, signature = signed(event("p"), int(time.time()), "whsec_of_another")
    answer = await api.post(
        "/webhooks/stripe", content=body, headers={"Stripe-Signature": signature}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "told",
    [[], {}, {"id": "evt_1"}, {"id": "e", "type": "t", "created": "x", "data": {"object": []}}],
    ids=["list", "empty", "no object", "wrong types"],
)
async def test_a_body_that_is_signed_and_no_event_is_refused(api, told):
    answer = await tell(api, told)
    assert (answer.status_code, answer.json()["type"]) == (
        422,
        "urn:orderflow:problem:invalid-body",
    )


@pytest.mark.parametrize("gateway", ["sandbox", "paypal"])
async def test_only_the_shop_s_own_gateway_is_listened_to(api, gateway):
    answer = await tell(api, event("p"), gateway=gateway)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:orderflow:problem:not-found")


@pytest.mark.parametrize(
    "told",
    [
        event("p") | {"data": {"object": {"object": "charge", "metadata": {}}}},
        event("p", metadata={}),
        event("p", metadata=None),
    ],
    ids=["a charge", "no key", "no metadata"],
)
async def test_what_is_about_none_of_our_payments_is_answered_and_not_kept(api, sql, told):
    answer = await tell(api, told)
    assert (answer.status_code, answer.json()["new"]) == (200, False)
    assert await sql.fetchval("SELECT count(*) FROM gateway_events") == 0


async def test_without_a_secret_events_are_asked_for_again(settings, resources):
    assert resources
    app = create_app(
        Settings(_env_file=None, **settings.model_dump() | {"gateway_webhook_secret": None})
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s.test") as client,
    ):
        answer = await tell(client, event("p"))
    assert answer.status_code == 503
    assert "GATEWAY_WEBHOOK_SECRET is not set" in answer.json()["detail"]


async def test_only_the_customer_sees_the_client_secret(api, waiting, stripe):
    [intent] = stripe.intents(waiting.payment_id)

    async def payment(path: str, user: str, *, admin: bool = False) -> dict[str, Any]:
        token = make_token(SECRET, user, admin=admin)
        answer = await api.get(path, headers={"Authorization": f"Bearer {token}"})
        body = answer.json()
        found: dict[str, Any] = body.get("orders", [body])[0]["payment"]
        return found

    mine = await payment(f"/orders/{waiting.order_id}", "user-1")
    assert (mine["status"], mine["clientSecret"]) == ("requires_action", intent["client_secret"])
    assert "clientSecret" not in await payment("/orders", "user-1")
    assert "clientSecret" not in await payment(f"/orders/{waiting.order_id}", "boss", admin=True)


async def test_a_whole_shop_with_3_d_secure(settings, place, stripe, tmp_path, sql):
    """Programs of their own: Stripe calls the API, and the order worker goes on."""
    port = free_port()
    environment = process_environment(settings) | {
        "PORT": str(port),
        "JWT_SECRET": SECRET,
        "PAYMENT_GATEWAY": "stripe",
        "GATEWAY_API_KEY": API_KEY,
        "GATEWAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "WEB_CONCURRENCY": "1",
    }
    programs = [
        start_program(tmp_path / f"{args[0]}-{args[-1]}.log", *args, environment=environment)
        for args in (
            ("orderflow.api",),
            ("orderflow.worker", "payment"),
            ("orderflow.worker", "order"),
        )
    ]
    try:
        wait_until(lambda: port_is_taken(port), "the API")
        stripe.call(
            "POST",
            "/_config/webhooks/shop",
            url=f"http://127.0.0.1:{port}/webhooks/stripe",
            secret=WEBHOOK_SECRET,
        )
        receipt = await place(paymentToken=stripe.card(CAREFUL))

        async def waits() -> bool:
            return await order(sql) == ("processing", "requires_action")

        async def is_confirmed() -> bool:
            return await order(sql) == ("confirmed", "completed")

        await until(waits)
        [intent] = stripe.intents(receipt.payment_id)
        stripe.authenticate(intent, success=True)
        await until(is_confirmed)
        done = await until(
            lambda: sql.fetch("SELECT type, done FROM gateway_events WHERE done <> ''")
        )
        assert [tuple(row) for row in done] == [("payment_intent.succeeded", "payment settled")]
    finally:
        statuses = [program.stop() for program in programs]
    assert statuses == [0, 0, 0]
    for program in programs:
        text = program.log.read_text()
        for secret in (API_KEY, WEBHOOK_SECRET, intent["client_secret"]):
            assert secret not in text, program.log
        assert json.loads(text.splitlines()[-1])["level"] == "info"
