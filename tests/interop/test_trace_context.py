"""Trace context that Node's telemetry puts into a job goes on through our workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.conftest import Program, wait_until
from tests.interop.conftest import NODE_OPTIONS, foreign_data, payment_data
from tests.otlp import collecting

PAYMENTS = "payment-processing"
NOTIFICATIONS = "notifications"
TRACE = "0af7651916cd43dd8448eb211c80319c"
NODE_SPAN = "b7ad6b7169203331"
CARRIER = json.dumps(
    {"traceparent": f"00-{TRACE}-{NODE_SPAN}-01", "tracestate": "shop=1", "baggage": "tier=gold"}
)


def lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.log.read_text().splitlines() if line[:1] == "{"]


async def test_every_log_line_of_a_job_has_its_trace(node, start_worker, keys):
    worker = start_worker("payment")
    options = NODE_OPTIONS | {"telemetry": {"metadata": CARRIER}}
    job_id = node.add(PAYMENTS, "process-payment", foreign_data(), options)
    keys(PAYMENTS).wait_for("completed", 1)
    wait_until(lambda: "payment settled" in worker.log.read_text(), "the log of the payment")
    of_job = [line for line in lines(worker) if line.get("job_id") == job_id]
    assert of_job
    assert all(line.get("trace_id") == TRACE for line in of_job), of_job


async def test_the_jobs_that_a_job_adds_go_on_in_its_trace(node, start_worker, keys):
    start_worker("payment")
    data = foreign_data()
    options = NODE_OPTIONS | {"telemetry": {"metadata": CARRIER}}
    node.add(PAYMENTS, "process-payment", data, options)
    keys(PAYMENTS).wait_for("completed", 1)
    added = keys(NOTIFICATIONS).hash(f"order-confirmation-{data['orderId']}")
    carried = json.loads(json.loads(added["opts"])["tm"])
    assert carried["traceparent"].split("-")[1] == TRACE
    assert carried["tracestate"] == "shop=1"
    job = node.job(NOTIFICATIONS, f"order-confirmation-{data['orderId']}")
    assert json.loads(job["opts"]["telemetry"]["metadata"]) == carried, "and Node finds it there"


async def test_a_producer_that_leaves_its_context_out_is_obeyed(node, start_worker, keys):
    start_worker("payment")
    data = foreign_data()
    options = NODE_OPTIONS | {"telemetry": {"omitContext": True}}
    node.add(PAYMENTS, "process-payment", data, options)
    keys(PAYMENTS).wait_for("completed", 1)
    added = keys(NOTIFICATIONS).hash(f"order-confirmation-{data['orderId']}")
    assert "tm" not in json.loads(added["opts"])


@pytest.mark.parametrize("carrier", ["", "{}", "no JSON", "[1]", '{"traceparent": 7}', "null"])
async def test_a_broken_context_harms_no_job(node6, start_worker, keys, carrier):
    start_worker("payment")
    options = NODE_OPTIONS | {"telemetry": {"metadata": carrier}}
    node6.add(PAYMENTS, "process-payment", foreign_data(), options)
    keys(PAYMENTS).wait_for("completed", 1)


async def test_a_trace_that_a_node_producer_began_goes_on_to_the_mail(node, start_worker, place):
    with collecting() as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        receipt = await place()
        # Its own job goes, so that the one from Node is the first.
        node.ask("drain", queue=PAYMENTS)
        start_worker("payment", **traced)
        start_worker("notification", **traced)
        options = NODE_OPTIONS | {"telemetry": {"metadata": CARRIER}}
        node.add(PAYMENTS, "process-payment", payment_data(receipt), options)

        def spans() -> dict[str, Any]:
            return {seen.name: seen for seen in collector.of_trace(TRACE)}

        way = (
            "process payment-processing",
            "add notifications.order-confirmation",
            "process notifications",
            "send email",
        )
        # Each worker sends its spans by itself, and either may be the first.
        wait_until(lambda: set(way) <= set(spans()), "the spans of both jobs")
        parent_id = NODE_SPAN
        for name in way:
            assert spans()[name].parent_id == parent_id, name
            parent_id = spans()[name].span_id
        job = node.job(NOTIFICATIONS, f"order-confirmation-{receipt.order_id}")
        carried = json.loads(job["opts"]["telemetry"]["metadata"])
    span_id = spans()["add notifications.order-confirmation"].span_id
    assert carried == json.loads(CARRIER) | {"traceparent": f"00-{TRACE}-{span_id}-01"}
