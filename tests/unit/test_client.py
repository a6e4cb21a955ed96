"""The client without a network: what it sends, when it tries again, and how it reads answers."""

from __future__ import annotations

import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
from httpx_sse import ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st

import orderflow.client as client_package
from orderflow.api.openapi import openapi_document
from orderflow.api.problems import PASSING as PASSING_KINDS
from orderflow.client import (
    Address,
    Fault,
    Order,
    Orders,
    OrderStatus,
    Problem,
    Receipt,
    SyncOrders,
    Unanswered,
    UnreadableAnswer,
    answers,
    calls,
)
from orderflow.client.failures import problem_of
from orderflow.client.following import PAUSE_S, Following
from orderflow.client.tries import (
    DEADLINE_S,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    PASSING,
    STEP_S,
    Again,
    Outcome,
    Tries,
)
from orderflow.retry_after import retry_after_s

TOKEN = "a-token-that-nobody-may-see"
SHOP = "https://shop.test/api"
ORDER_ID = uuid4()


def response(status: int, content: bytes = b"", **headers: str) -> httpx.Response:
    return httpx.Response(
        status, content=content, headers=headers, request=httpx.Request("GET", f"{SHOP}/orders")
    )


def sent(call: calls.Call[Any], token: str = TOKEN) -> httpx.Request:
    with httpx.Client() as http:
        return call.request(http, SHOP, token, 1.0)


def a_checkout(**changes: Any) -> calls.Call[Receipt]:
    wanted: dict[str, Any] = {
        "items": {"tea-assam": 2},
        "payment_method": "card",
        "email": "ada@shop.example",
    }
    return calls.checkout(**(wanted | changes))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


ERRORS = [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("gone")]


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    if draw(st.booleans()):
        return draw(st.sampled_from(ERRORS))
    asked = draw(st.none() | st.integers(0, 20))
    headers = {} if asked is None else {"Retry-After": str(asked)}
    return response(draw(st.sampled_from(sorted(PASSING))), **headers)


@given(
    some=st.lists(outcomes(), min_size=1, max_size=5),
    took_s=st.floats(0, 10),
    chance=st.floats(0, 1, exclude_max=True),
    deadline_s=st.floats(0.1, 100),
)
def test_waits_grow_heed_the_server_and_end_with_the_deadline(
    some: list[Outcome], took_s: float, chance: float, deadline_s: float
) -> None:
    clock = Clock()
    tries = Tries(a_checkout(), deadline_s, clock=clock, chance=lambda: chance)
    for number, outcome in enumerate(itertools.cycle(some)):
        assert 0 < tries.step_s <= max(STEP_S, deadline_s)
        clock.now += took_s
        try:
            verdict = tries.judge(outcome)
        except Unanswered as error:
            last = error
            break
        assert isinstance(verdict, Again)
        asked = outcome.headers.get("Retry-After", 0) if isinstance(outcome, httpx.Response) else 0
        grown_s = verdict.wait_s - float(asked)
        most_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**number)
        assert most_s / 2 - 1e-9 <= grown_s <= most_s + 1e-9
        clock.now += verdict.wait_s
        assert clock.now < deadline_s, "a try that has no time is not waited for"
    assert (last.tries, last.waited_s) == (number + 1, clock.now)
    assert last.__cause__ is not None


@given(status=st.integers(200, 599).filter(lambda status: status not in PASSING))
def test_any_other_answer_is_the_last_word(status: int) -> None:
    call = calls.Call(method="GET", path="/orders", read=lambda answer: answer.status_code)
    tries = Tries(call, DEADLINE_S)
    if 200 <= status < 300:
        assert tries.judge(response(status)) == status
    else:
        with pytest.raises(Problem) as raised:
            tries.judge(response(status))
        assert raised.value.status == status


def test_what_the_shop_says_is_passing_is_tried_again() -> None:
    assert {kind.status for kind in PASSING_KINDS} <= PASSING


@pytest.mark.parametrize(
    ("given_text", "expected_s"),
    [("3", 3.0), (" 3 ", 3.0), ("0", 0.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("1.5", 0.0)],
)
def test_a_retry_after_in_seconds(given_text: str, expected_s: float) -> None:
    headers = httpx.Headers({"Retry-After": given_text})
    assert retry_after_s(headers, datetime.now(UTC)) == expected_s


@given(wait_s=st.integers(-100_000, 100_000))
def test_a_retry_after_as_a_date(wait_s: int) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    at = format_datetime(now + timedelta(seconds=wait_s), usegmt=True)
    assert retry_after_s(httpx.Headers({"Retry-After": at}), now) == max(0, wait_s)


@pytest.mark.parametrize(
    ("clock", "wait_s"), [("12:00:10 -0000", 10), ("12:00:10 GMT", 10), ("14:00:10 +0200", 10)]
)
def test_a_retry_after_is_reckoned_in_its_own_zone(clock: str, wait_s: int) -> None:
    headers = httpx.Headers({"Retry-After": f"Sat, 31 Jan 2026 {clock}"})
    assert retry_after_s(headers, datetime(2026, 1, 31, 12, tzinfo=UTC)) == wait_s


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126))
    | st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,5} Jan [0-9]{1,9} [0-9:]{1,9} [+-][0-9]{1,14}\Z")
)
def test_a_retry_after_that_nobody_can_read_asks_for_nothing_and_harms_nobody(text: str) -> None:
    assert retry_after_s(httpx.Headers({"Retry-After": text}), datetime.now(UTC)) >= 0


def test_every_try_has_the_same_key_and_every_checkout_its_own() -> None:
    one, another = a_checkout(), a_checkout()
    keys = {sent(one).headers["Idempotency-Key"] for _ in range(3)}
    assert len(keys) == 1
    assert sent(another).headers["Idempotency-Key"] not in keys


@pytest.mark.parametrize("key", ["plain", 'with "quotes"', "back\\slash", '"'])
def test_any_printable_key_reaches_the_shop_as_it_is(key: str) -> None:
    from starlette.datastructures import Headers

    from orderflow.api.idempotency_key import read_idempotency_key
    from orderflow.settings import Settings

    request = sent(a_checkout(idempotency_key=key))
    settings = Settings(_env_file=None, database_url="postgresql://nowhere")
    read = read_idempotency_key(Headers(dict(request.headers)), settings)
    assert read is not None
    assert read.key == key


def test_a_key_that_no_header_can_carry_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^idempotency_key: must be printable ASCII$"):
        sent(a_checkout(idempotency_key="Zoë\n"))


def test_a_checkout_says_what_is_given_and_leaves_out_what_is_not() -> None:
    address = Address(
        name="Ada Lovelace", line1="Musterweg 1", postal_code="10115", city="Berlin", country="DE"
    )
    call = a_checkout(payment_token="tok_approve", language="de", shipping_address=address)
    assert json.loads(sent(call).content) == {
        "items": [{"sku": "tea-assam", "quantity": 2}],
        "paymentMethod": "card",
        "paymentToken": "tok_approve",
        "contact": {"email": "ada@shop.example", "language": "de"},
        "shippingAddress": {
            "name": "Ada Lovelace",
            "line1": "Musterweg 1",
            "postalCode": "10115",
            "city": "Berlin",
            "country": "DE",
        },
    }


def test_an_id_stays_one_part_of_the_path() -> None:
    assert sent(calls.order("shop/7?x=1#y")).url.raw_path == b"/api/orders/shop%2F7%3Fx%3D1%23y"


def test_a_refund_is_in_cents() -> None:
    call = calls.refund(ORDER_ID, Decimal("2.5"), "", None)
    assert json.loads(sent(call).content)["amount"] == "2.50"
    whole = calls.refund(ORDER_ID, None, "", None)
    assert "amount" not in json.loads(sent(whole).content)


@pytest.mark.parametrize("client", [Orders, SyncOrders])
def test_an_address_without_its_scheme_is_told_at_once(client: Any) -> None:
    with pytest.raises(ValueError, match="url: must begin with http:// or https://"):
        client("shop.example:8000", TOKEN)


@pytest.mark.parametrize("bad", ["", " ", "two\nlines", "Zoë", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(bad: str) -> None:
    with pytest.raises(ValueError, match=r"^token: must be printable ASCII, and not empty$"):
        sent(calls.order(ORDER_ID), bad)


def test_a_token_of_a_file_may_end_with_its_line() -> None:
    request = sent(calls.order(ORDER_ID), f"{TOKEN}\n")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_nothing_that_is_printed_shows_a_secret() -> None:
    call = a_checkout(payment_token="tok_secret")
    payment = answers.OrderPayment.model_validate(
        {
            "paymentId": ORDER_ID,
            "method": "card",
            "status": "requires_action",
            "declineReason": None,
            "clientSecret": "pi_secret",
        }
    )
    contact = answers.OrderContact(email="ada@shop.example", phone=None)
    shown = f"{call!r} {payment!r} {contact!r} {SyncOrders(SHOP, TOKEN)!r}"
    for secret in ("tok_secret", "pi_secret", "ada@", TOKEN):
        assert secret not in shown


def test_a_problem_says_all_that_the_shop_said() -> None:
    body = {
        "type": "urn:orderflow:problem:out-of-stock",
        "title": "A product is out of stock",
        "status": 409,
        "detail": "There are not 3 of 'cup-stone' left.",
        "instance": "/checkout",
        "sku": "cup-stone",
        "errors": [
            {"field": "/items/0/quantity", "rule": "in-stock", "detail": "one"},
            {"field": "/items/1/quantity", "rule": "in-stock", "detail": "two"},
            {"field": "/items/1/quantity", "rule": "in-stock", "detail": "three"},
        ],
    }
    problem = problem_of(response(409, json.dumps(body).encode()))
    assert (problem.status, problem.kind, problem.title) == (
        409,
        "out-of-stock",
        "A product is out of stock",
    )
    assert problem.errors == {
        "/items/0/quantity": (Fault(field="/items/0/quantity", rule="in-stock", detail="one"),),
        "/items/1/quantity": (
            Fault(field="/items/1/quantity", rule="in-stock", detail="two"),
            Fault(field="/items/1/quantity", rule="in-stock", detail="three"),
        ),
    }
    assert problem.members == {"sku": "cup-stone"}
    assert str(problem) == (
        "GET /api/orders was answered 409: There are not 3 of 'cup-stone' left "
        "(/items/0/quantity, /items/1/quantity)."
    )


@given(
    content=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["type", "title", "detail", "errors", "field", "status"]), inner
            )
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_of_an_error_is_a_problem(content: bytes) -> None:
    problem = problem_of(response(502, content))
    assert problem.status == 502
    assert str(problem).startswith("GET /api/orders was answered 502: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "Receipt: must be an object of JSON"),
        (b"[]", "Receipt: must be an object of JSON"),
        (b"null", "Receipt: must be an object of JSON"),
        (b"\xff", "Receipt: must be an object of JSON"),
        (b'{"orderId": "ada@shop.example"}', "orderId of Receipt: Input should be a valid UUID"),
    ],
)
def test_an_answer_of_another_server_is_told_without_what_it_holds(
    content: bytes, reason: str
) -> None:
    with pytest.raises(UnreadableAnswer) as raised:
        a_checkout().answer(response(200, content))
    assert reason in str(raised.value)
    assert "ada@" not in str(raised.value)


def test_a_newer_shop_breaks_nobody() -> None:
    receipt = Receipt.model_validate(
        {
            "orderId": ORDER_ID,
            "paymentId": ORDER_ID,
            "status": "on-the-moon",
            "total": "1.00",
            "currency": "EUR",
            "rocket": 7,
        }
    )
    assert receipt.status == "on-the-moon"
    known = receipt.model_copy(update={"status": OrderStatus.PENDING})
    assert Receipt.model_validate_json(known.model_dump_json()).status is OrderStatus.PENDING


#: Ours says it of an answer, and the reference of the stream that it is in.
EXTRA = {"Receipt": {"replayed"}, "LiveStatus": {"eventId"}}
MODELS = [
    model
    for model in vars(answers).values()
    if inspect.isclass(model)
    and issubclass(model, answers._Answer)
    and model is not answers._Answer
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_an_answer_has_what_the_reference_says(model: type[answers._Answer]) -> None:
    schema = openapi_document()["components"]["schemas"][model.__name__]
    fields = {field.alias: field for field in model.model_fields.values()}
    own = EXTRA.get(model.__name__, set())
    assert set(fields) - own == set(schema["properties"])
    needed = {name for name, field in fields.items() if field.is_required()}
    assert needed - own <= set(schema["required"]), "what may be left out has a default"


def test_a_checkout_can_say_what_the_reference_knows() -> None:
    schemas = openapi_document()["components"]["schemas"]
    full = a_checkout(payment_token="t", phone="+4915112345678", language="de")
    body = {**(full.body or {}), "shippingAddress": {}}
    assert set(body) == set(schemas["Checkout"]["properties"])
    assert set(body["contact"]) == set(schemas["Contact"]["properties"])


def test_both_clients_can_do_the_same() -> None:
    def surface(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name.replace("aclose", "close"): [
                (parameter.name, parameter.default, parameter.annotation)
                for parameter in inspect.signature(method).parameters.values()
            ]
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    assert surface(Orders) == surface(SyncOrders)


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(client_package, name) for name in client_package.__all__)


def test_an_import_of_the_client_brings_nothing_of_the_server() -> None:
    code = "import orderflow.client, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    server = {"asyncpg", "bullmq", "redis", "starlette", "uvicorn", "sqlalchemy", "structlog"}
    server |= {"jinja2", "pydantic_settings", "prometheus_client", "email_validator", "jwt"}
    assert not server & set(done.stdout.split())


STATUS = json.dumps(
    {
        "orderId": str(ORDER_ID),
        "status": "confirmed",
        "at": "2026-01-31T12:00:00.000Z",
        "payment": {"status": "completed", "declineReason": None},
        "shipment": None,
        "refunds": [],
    }
)
STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


def header(call: calls.Call[None]) -> str | None:
    return call.headers.get("Last-Event-ID")


@pytest.fixture
def stream() -> Callable[[], httpx.Response]:
    return lambda: response(200, b"", **STREAM)


def test_a_stream_goes_on_after_the_last_event_and_ends_with_the_order(
    stream: Callable[[], httpx.Response],
) -> None:
    following = Following(ORDER_ID, "pending.pending.0", DEADLINE_S)
    assert header(following.next_call()) == "pending.pending.0"
    assert following.opens(stream())
    status = following.take(ServerSentEvent("status", STATUS, "confirmed.completed.0"), stream())
    assert status is not None
    assert (status.event_id, status.status) == ("confirmed.completed.0", "confirmed")
    assert following.closed(httpx.ReadError("cut")) == PAUSE_S
    assert header(following.next_call()) == "confirmed.completed.0"
    assert following.opens(stream())
    following.take(ServerSentEvent("end", '{"orderId": "…"}', "delivered.completed.0"), stream())
    assert following.ended
    assert following.closed(stream()) == 0


def test_what_only_keeps_a_stream_open_is_not_told(stream: Callable[[], httpx.Response]) -> None:
    following = Following(ORDER_ID, None, DEADLINE_S)
    assert header(following.next_call()) is None
    assert following.opens(stream())
    assert following.take(ServerSentEvent("", "", "", 1_500), stream()) is None
    assert following.take(ServerSentEvent("", "", "pending.pending.0"), stream()) is None
    assert following.take(ServerSentEvent("news", "of another kind", ""), stream()) is None
    assert following.closed(stream()) == 1.5, "the shop says when to come again"


def test_204_is_the_end_of_a_stream() -> None:
    following = Following(ORDER_ID, "delivered.completed.0", DEADLINE_S)
    following.next_call()
    assert not following.opens(response(204))
    assert following.ended
    assert following.closed(response(204)) == 0


def test_a_stream_that_is_refused_is_a_problem_and_one_that_is_none_is_unreadable() -> None:
    following = Following(ORDER_ID, None, DEADLINE_S)
    following.next_call()
    assert not following.opens(response(404))
    with pytest.raises(Problem):
        following.closed(response(404))
    following.next_call()
    with pytest.raises(UnreadableAnswer, match="Content-Type is text/html"):
        following.opens(response(200, b"", **{"Content-Type": "text/html"}))


def test_a_shop_that_is_away_is_tried_until_the_deadline_and_anew_after_each_stream(
    stream: Callable[[], httpx.Response],
) -> None:
    following = Following(ORDER_ID, None, DEADLINE_S)
    for _ in range(2):
        # Were it not anew, the wait would have grown.
        for number in range(3):
            following.next_call()
            assert following.closed(httpx.ConnectError("away")) <= FIRST_WAIT_S * 2**number
        following.next_call()
        assert following.opens(stream())
        assert following.closed(stream()) == PAUSE_S
    following.next_call()
    with pytest.raises(Unanswered) as raised:
        following.closed(response(503, b"", **{"Retry-After": "60"}))
    assert raised.value.status == 503


def test_an_order_reads_as_the_reference_shows_it() -> None:
    from orderflow.api.schemas import CANCELLED_ORDER_EXAMPLE, ONE_ORDER_EXAMPLE

    order = Order.model_validate(ONE_ORDER_EXAMPLE)
    assert order.total == Decimal("39.98")
    assert order.shipment is not None
    assert order.shipment.shipped_at == datetime(2026, 2, 1, 9, 30, tzinfo=UTC)
    [refund] = Order.model_validate(CANCELLED_ORDER_EXAMPLE).refunds
    assert refund.cause == "cancel"
