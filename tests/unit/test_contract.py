"""The contract, value by value: a change here is a change for every Node service."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orderflow.contract import (
    CONCURRENCY,
    JOB_OPTIONS,
    MAX_PRIORITY,
    Channel,
    GatewayEventJob,
    JobName,
    OrderConfirmationJob,
    OrderEventJob,
    OrderRefundedJob,
    PaymentFailedJob,
    PaymentJob,
    PaymentMethod,
    Priorities,
    Priority,
    QueueName,
    RefundJob,
    gateway_event_job,
    gateway_key,
    job_id,
    order_confirmation_job,
    order_event_job,
    order_refunded_job,
    order_row_id,
    payment_failed_job,
    payment_job,
    read_payload,
    refund_job,
    row_id,
)
from orderflow.errors import InvalidPayload

PAYMENT = "01890a5d-ac96-774b-bcce-b302099a8057"
ORDER = "01890a5d-ac96-774b-bcce-b302099a8058"


def test_the_names_are_those_of_the_node_design():
    assert [queue.value for queue in QueueName] == [
        "payment-processing",
        "notifications",
        "order-processing",
    ]
    assert [name.value for name in JobName] == [
        "process-payment",
        "order-confirmation",
        "payment-failed",
        "order-shipped",
        "order-delivered",
        "order-cancelled",
        "order-refunded",
        "refund-payment",
        "reconcile",
        "gateway-event",
        "compare-books",
    ]
    assert [method.value for method in PaymentMethod] == ["card", "online", "wallet", "cash"]
    assert [channel.value for channel in Channel] == ["email", "sms"]
    assert CONCURRENCY == {"payment-processing": 10, "notifications": 20, "order-processing": 5}


def test_the_job_options_are_those_of_the_node_design():
    assert JOB_OPTIONS.to_bullmq() == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 2000},
        "removeOnComplete": {"age": 3600, "count": 1000},
        "removeOnFail": {"age": 86400},
    }


def test_the_priorities_are_named_and_numbered():
    usual, old_node = Priorities(), Priorities(20, 10, 1)
    assert [usual.number(priority) for priority in Priority] == [1, 10, 20]
    assert [old_node.number(priority) for priority in Priority] == [20, 10, 1]
    assert [priority.value for priority in Priority] == ["high", "medium", "low"]
    assert usual.unknown([30, 10, 1, 20, 5, 30]) == [5, 30]
    assert MAX_PRIORITY == 2**21 - 1


def test_the_payment_job():
    job = payment_job(PAYMENT, ORDER, "card", Decimal("12.30"))
    assert (job.queue, job.name, job.priority) == ("payment-processing", "process-payment", "high")
    assert job.job_id == f"payment-{PAYMENT}"
    assert job.data == {
        "paymentId": PAYMENT,
        "orderId": ORDER,
        "paymentData": {"method": "card", "amount": "12.30"},
    }


def test_the_notification_jobs():
    confirmation = order_confirmation_job(ORDER, "user-1")
    assert (confirmation.queue, confirmation.name, confirmation.priority) == (
        "notifications",
        "order-confirmation",
        "high",
    )
    assert confirmation.job_id == f"order-confirmation-{ORDER}"
    assert confirmation.data == {"orderId": ORDER, "userId": "user-1"}
    failed = payment_failed_job(ORDER, "user-1", "card_declined")
    assert (failed.queue, failed.name, failed.priority) == (
        "notifications",
        "payment-failed",
        "medium",
    )
    assert failed.job_id == f"payment-failed-{ORDER}"
    assert failed.data == {
        "orderId": ORDER,
        "userId": "user-1",
        "reason": "card_declined",
    }


def test_the_jobs_of_an_orders_later_life():
    shipped = order_event_job(JobName.ORDER_SHIPPED, ORDER, "user-1")
    assert (shipped.queue, shipped.name) == ("notifications", "order-shipped")
    assert (shipped.priority, shipped.job_id) == ("medium", f"order-shipped-{ORDER}")
    assert shipped.data == {"orderId": ORDER, "userId": "user-1"}
    told = order_refunded_job(UUID(PAYMENT), ORDER, "user-1")
    assert (told.queue, told.job_id) == ("notifications", f"order-refunded-{PAYMENT}")
    assert (told.name, told.priority) == ("order-refunded", "medium")
    assert told.data == {"orderId": ORDER, "userId": "user-1", "refundId": PAYMENT}
    refund = refund_job(UUID(PAYMENT), ORDER)
    assert (refund.queue, refund.name) == ("order-processing", "refund-payment")
    assert (refund.priority, refund.job_id) == ("medium", f"refund-{PAYMENT}")
    assert refund.data == {"refundId": PAYMENT, "orderId": ORDER}


def test_the_job_of_a_gateways_event():
    job = gateway_event_job("stripe", "evt_1")
    assert (job.queue, job.name, job.priority) == ("order-processing", "gateway-event", "high")
    assert job.job_id == "gateway-event-stripe-evt_1"
    assert job.data == {"gateway": "stripe", "eventId": "evt_1"}


def test_the_data_of_a_job_stay_out_of_what_is_shown_of_it():
    assert "tea-lover" not in repr(order_confirmation_job(ORDER, "tea-lover"))


@pytest.mark.parametrize(
    ("job", "payload"),
    [
        (payment_job(PAYMENT, ORDER, "cash", Decimal("1234567890.00")), PaymentJob),
        (order_confirmation_job("42", None), OrderConfirmationJob),
        (payment_failed_job("42", "zoë", "no “funds”"), PaymentFailedJob),
        (order_event_job(JobName.ORDER_SHIPPED, "42", "zoë"), OrderEventJob),
        (order_refunded_job(UUID(PAYMENT), "42", None), OrderRefundedJob),
        (refund_job(UUID(PAYMENT), "42"), RefundJob),
        (gateway_event_job("stripe", "evt_1"), GatewayEventJob),
    ],
)
def test_our_jobs_have_the_data_of_their_payload(job, payload):
    read = payload.model_validate(job.data)
    assert read.model_dump(mode="json", by_alias=True) == job.data


@pytest.mark.parametrize(
    ("amount", "read"),
    [
        (19.99, "19.99"),
        ("19.99", "19.99"),
        (20, "20"),
        (0.1, "0.1"),
        (1e9, "1000000000.0"),
        (3.3000000000000003, "3.3"),
        (19.990000000000002, "19.99"),
        (-0.0, "0"),
        ("9999999999.99", "9999999999.99"),
    ],
)
def test_amounts_are_read_as_node_writes_them(amount, read):
    job = PaymentJob.model_validate(
        {"paymentId": 1, "orderId": "o", "paymentData": {"method": "card", "amount": amount}}
    )
    assert job.payment_data.amount == Decimal(read)
    assert (job.payment_id, job.order_id) == ("1", "o")


@pytest.mark.parametrize(
    "amount", [-0.01, "1.001", 1.001, 1.00001, "NaN", "1e11", "10000000000.00", None, True, "", {}]
)
def test_amounts_that_are_no_money_are_refused(amount):
    with pytest.raises(ValidationError, match="amount"):
        PaymentJob.model_validate(
            {"paymentId": 1, "orderId": 2, "paymentData": {"method": "card", "amount": amount}}
        )


@pytest.mark.parametrize("order_id", [None, "", True, 1.5, [], "x" * 256, "a\0"])
def test_ids_are_text_or_whole_numbers(order_id):
    with pytest.raises(ValidationError, match="orderId"):
        OrderConfirmationJob.model_validate({"orderId": order_id})


def test_an_id_may_be_one_letter_or_many():
    for order_id in ("x", "x" * 255):
        assert OrderConfirmationJob.model_validate({"orderId": order_id}).order_id == order_id


def test_who_ordered_and_why_a_payment_failed_may_be_left_out():
    for payload in (OrderConfirmationJob, PaymentFailedJob, OrderEventJob):
        assert payload.model_validate({"orderId": 42, "userId": 7}).user_id == "7"
        assert payload.model_validate({"orderId": 42}).user_id is None
    assert PaymentFailedJob.model_validate({"orderId": 42}).reason == "declined"


def test_every_fault_of_a_payload_is_named_and_none_of_it_shown():
    bad = {"orderId": [], "paymentData": {"method": "card", "amount": "secret"}, "more": 1}
    with pytest.raises(InvalidPayload) as refused:
        read_payload("process-payment", bad, PaymentJob)
    assert refused.value.fields["job_name"] == "process-payment"
    faults = [fault.partition(": ") for fault in refused.value.fields["faults"]]
    assert [where for where, *_ in faults] == ["paymentId", "orderId", "paymentData.amount"]
    assert all(why for *_, why in faults)
    assert "secret" not in str(refused.value)

    with pytest.raises(InvalidPayload, match="data: "):
        read_payload("process-payment", None, PaymentJob)


def test_what_is_read_of_a_payload_cannot_be_changed():
    read = read_payload("order-confirmation", {"orderId": "42", "more": 1}, OrderConfirmationJob)
    assert read == OrderConfirmationJob(orderId="42")
    with pytest.raises(ValidationError, match="frozen"):
        read.order_id = "43"


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ({"orderId": ORDER}, UUID(ORDER)),
        ({"orderId": 42}, row_id("42")),
        ({"orderId": ""}, None),
        ({"orderId": None}, None),
        ({"orderId": True}, None),
        ({}, None),
        ([ORDER], None),
        (None, None),
    ],
)
def test_the_order_of_a_job_whoever_made_it(data, row):
    assert order_row_id(data) == row


def test_a_foreign_id_has_the_row_id_that_it_always_had():
    assert row_id("order-1") == uuid5(UUID("6f7264e5-2666-4c6f-9077-000000000000"), "order-1")
    assert gateway_key("naïve") == str(row_id("naïve"))
    assert gateway_key("a\n") == str(row_id("a\n"))
    assert gateway_key("a") == "a"


def test_a_uuid_is_its_own_row_id():
    assert row_id(PAYMENT) == UUID(PAYMENT)
    assert row_id(PAYMENT.upper()) == UUID(PAYMENT)


@given(st.text(min_size=1, max_size=255))
def test_any_other_id_has_one_row_id_and_keeps_it(foreign):
    assert row_id(foreign) == row_id(foreign)
    assert row_id(foreign) != row_id(foreign + "'")


@pytest.mark.parametrize("spelling", ["{%s}", "urn:uuid:%s"])
def test_another_spelling_of_a_uuid_is_another_id(spelling):
    # A Node producer would see two different strings, and so must we.
    assert row_id(spelling % PAYMENT) != UUID(PAYMENT)


def test_job_ids_hold_no_colon():
    assert job_id("payment", "42") == "payment-42"
    assert job_id("payment", "a:b") == f"payment-{row_id('a:b')}"


@given(st.text(min_size=1, max_size=255))
def test_a_gateway_key_fits_into_a_header(foreign):
    key = gateway_key(foreign)
    assert key.isascii()
    assert key.isprintable()
    assert key == (foreign if foreign.isascii() and foreign.isprintable() else str(row_id(foreign)))
