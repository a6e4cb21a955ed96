"""Traces, as a collector gets them: whole, in one piece, and with nothing private in them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import SpanKind
from redis import Redis
from tests.conftest import (
    CATALOGUE,
    SECRET,
    MailServer,
    Program,
    process_environment,
    start_program,
    wait_until,
)
from tests.integration.conftest import checkout_body
from tests.otlp import Collector, Seen, collecting

from orderflow.bull.ending import Postponed
from orderflow.bull.worker import Delivery
from orderflow.checkout import place_order
from orderflow.checkout_body import Checkout
from orderflow.contract import payment_job
from orderflow.errors import DatabaseRefused, GatewayUnavailable
from orderflow.products import load_products, read_catalogue
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings
from orderflow.tracing import open_tracing
from orderflow.tracing.queues import traced
from orderflow.tracing.spans import span

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CLIENT}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def traced_environment(url: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


StartTraced = Callable[..., Program]


@pytest.fixture
def start_traced(settings: Settings, collector: Collector, tmp_path: Path) -> Iterator[StartTraced]:
    """Start programs of orderflow that send their spans to the collector."""
    programs: list[Program] = []

    def start(*args: str, **changes: str) -> Program:
        environment = process_environment(settings) | traced_environment(collector.url) | changes
        log = tmp_path / f"{'-'.join(args)}.log"
        programs.append(start_program(log, *args, environment=environment))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def shop(start_traced: StartTraced, resources: Resources) -> tuple[str, dict[str, Program]]:
    """The API and both workers, with something to sell; where the API is, and the programs."""
    assert resources
    port = free_port()
    programs = {
        "api": start_traced("orderflow.api", PORT=str(port), JWT_SECRET=SECRET),
        "payment": start_traced("orderflow.worker", "payment"),
        "notification": start_traced("orderflow.worker", "notification"),
    }
    wait_until(lambda: port_is_taken(port), "the API")
    return f"http://127.0.0.1:{port}", programs


def test_one_trace_goes_from_the_request_to_the_mail(
    shop: tuple[str, dict[str, Program]], collector: Collector, mail_server: MailServer
):
    url, programs = shop
    token = make_token(SECRET, "user-hedy")
    answer = httpx.post(
        f"{url}/checkout",
        json=checkout_body(contact={"email": "hedy@shop.example", "phone": "+4915112345678"}),
        headers={"Authorization": f"Bearer {token}", "traceparent": TRACEPARENT},
        trust_env=False,
    )
    assert answer.status_code == 202
    order_id, payment_id = answer.json()["orderId"], answer.json()["paymentId"]

    def spans() -> dict[str, Seen]:
        return {seen.name: seen for seen in collector.of_trace(TRACE)}

    # The job's span ends after that of the mail in it.
    wait_until(lambda: "process notifications" in spans(), "the span of the last job")
    assert len(mail_server.mails(order_id)) == 1
    seen = spans()
    chain = [
        ("POST /checkout", "api", "server"),
        ("add payment-processing.process-payment", "api", "producer"),
        ("process payment-processing", "payment", "consumer"),
        ("add notifications.order-confirmation", "payment", "producer"),
        ("process notifications", "notification", "consumer"),
        ("send email", "notification", "client"),
    ]
    parent_id = CLIENT
    for name, program, kind in chain:
        assert seen[name].parent_id == parent_id, name
        assert (seen[name].service, seen[name].kind) == (f"orderflow-{program}", kind)
        parent_id = seen[name].span_id
    for statement, below in {
        "place_orders": "POST /checkout",
        "begin_charge": "process payment-processing",
        "settle_paid": "process payment-processing",
        "claim_messages": "process notifications",
        "record_sent": "process notifications",
    }.items():
        waiting = seen[f"await {statement}"]
        assert waiting.parent_id == seen[below].span_id
        assert seen[statement].parent_id == waiting.span_id
        assert seen[statement].kind == "client"
    assert seen["charge"].parent_id == seen["process payment-processing"].span_id
    assert seen["charge"].attributes == {
        "orderflow.payment": payment_id,
        "orderflow.outcome": "paid",
    }
    assert seen["POST /checkout"].attributes == {
        "http.request.method": "POST",
        "http.route": "/checkout",
        "http.response.status_code": 202,
    }
    assert not [one for one in collector.of_trace(TRACE) if one.failed]

    of_order = [
        line
        for program in programs.values()
        for line in map(json.loads, program.log.read_text().splitlines())
        if line.get("order_id") == order_id
    ]
    assert {line["logger"] for line in of_order} >= {"orderflow.checkout", "orderflow.notify"}
    assert {line.get("trace_id") for line in of_order} == {TRACE}

    path, headers, _ = collector.requests[0]
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer hunter2")
    sent = b"".join(body for *_, body in collector.requests)
    private = ["hedy", "+4915112345678", "tok_approve", token, SECRET, "hunter2"]
    assert [word for word in private if word.encode() in sent] == []


def test_a_request_is_named_by_its_route_and_never_by_its_path(
    shop: tuple[str, dict[str, Program]], collector: Collector
):
    url, _ = shop
    order = f"{url}/orders/0190a6a0-0000-7000-8000-000000000001"
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1')}"}
    with httpx.Client(trust_env=False, headers=headers) as client:
        client.get(f"{url}/livez")
        client.get(f"{url}/nothing-here")
        client.request("PROPFIND", order)
        assert client.get(order).status_code == 404
    wait_until(lambda: bool(collector.named("GET /orders/{order_id}")), "the last request's span")
    [nowhere] = collector.named("GET")
    assert nowhere.attributes == {"http.request.method": "GET", "http.response.status_code": 404}
    [other] = collector.named("HTTP /orders/{order_id}")
    assert other.attributes["http.request.method"] == "_OTHER"
    assert other.attributes["http.response.status_code"] == 405
    assert not [seen for seen in collector.spans if "livez" in seen.name]
    assert nowhere.trace_id != other.trace_id, "each has a trace of its own"


def test_a_collector_that_is_away_holds_up_nothing(start_traced: StartTraced):
    url = f"http://127.0.0.1:{free_port()}"
    worker = start_traced("orderflow.worker", "payment", OTEL_EXPORTER_OTLP_ENDPOINT=url)
    wait_until(lambda: "worker started" in worker.log.read_text(), "the worker")
    assert worker.stop() == 0


def test_a_wrong_setting_is_told_before_anything_starts(start_traced: StartTraced):
    worker = start_traced("orderflow.worker", "payment", OTEL_TRACES_SAMPLER="sometimes")
    assert worker.process.wait(30) == 2
    assert "OTEL_TRACES_SAMPLER: Input should be 'always_on', " in worker.log.read_text()


def test_without_the_setting_nothing_of_it_is_even_imported():
    program = """
import asyncio, sys
import orderflow.api.app, orderflow.worker
from orderflow.bull.queues import JobQueues
from orderflow.db import Database
from orderflow.resources import open_resources
from orderflow.settings import Settings
from orderflow.tracing import open_tracing

async def main():
    settings = Settings(_env_file=None)
    with open_tracing(settings, "test"):
        async with open_resources(settings) as resources:
            assert type(resources.db) is Database and type(resources.queues) is JobQueues
    # redis-py imports OpenTelemetry's metrics wherever they are installed; the rest is ours.
    parts = ("orderflow.tracing.", "opentelemetry.sdk.trace", "opentelemetry.exporter")
    names = [name for name in sys.modules if name.startswith(parts)]
    assert names == [], names

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What follows is traced in this process: OpenTelemetry takes one provider a process.


@pytest.fixture(scope="module")
def tracing_here(collector: Collector) -> Iterator[Callable[[], None]]:
    """Send the spans of this process to the collector; returns what waits until they are there."""
    settings = Settings(
        _env_file=None,
        otel_exporter_otlp_endpoint=collector.url,
        otel_service_name="shop",
    )
    from opentelemetry import trace

    with open_tracing(settings, "test"):
        yield lambda: trace.get_tracer_provider().force_flush()


@pytest.fixture
async def traced_resources(
    settings: Settings, collector: Collector, tracing_here: object
) -> AsyncIterator[Resources]:
    assert tracing_here
    traced_settings = settings.model_copy(update={"otel_exporter_otlp_endpoint": collector.url})
    async with open_resources(traced_settings) as opened:
        await load_products(read_catalogue(CATALOGUE), opened.db)
        yield opened


async def test_the_statement_of_a_batch_links_to_all_who_asked(
    traced_resources: Resources, collector: Collector, tracing_here: Callable[[], None]
):
    async def order(number: int) -> str:
        with span(f"request {number}", SpanKind.SERVER) as request:
            checkout = Checkout.model_validate(checkout_body())
            await place_order(
                checkout,
                "user-1",
                None,
                db=traced_resources.db,
                queues=traced_resources.queues,
            )
            return f"{request.get_span_context().trace_id:032x}"

    traces = await asyncio.gather(*map(order, range(5)))
    tracing_here()
    assert len(set(traces)) == 5
    waits = [seen for seen in collector.named("await place_orders") if seen.service == "shop"]
    [statement] = collector.named("BATCH place_orders")
    assert statement.attributes["db.operation.batch.size"] == 5
    assert set(statement.links) == {seen.span_id for seen in waits}
    assert {seen.trace_id for seen in waits} == set(traces)
    assert statement.parent_id == waits[0].span_id
    assert statement.trace_id in traces


async def test_a_statement_that_is_refused_says_so_to_the_one_who_asked(
    traced_resources: Resources, collector: Collector, tracing_here: Callable[[], None]
):
    with span("request refused", SpanKind.SERVER) as request:
        with pytest.raises(DatabaseRefused):
            await traced_resources.db.fetchrow("find_payment", "hedy@shop.example" * 100)
        trace_id = f"{request.get_span_context().trace_id:032x}"
    tracing_here()
    [statement] = [seen for seen in collector.of_trace(trace_id) if seen.name == "find_payment"]
    assert (statement.failed, statement.attributes["error.type"]) == (True, "DatabaseRefused")


async def test_a_statement_that_neither_request_nor_job_asks_for_makes_no_trace(
    traced_resources: Resources, collector: Collector, tracing_here: Callable[[], None]
):
    await asyncio.gather(
        traced_resources.db.fetchrow("any_product"),
        traced_resources.db.batch("find_idempotency_key", "user-1", "a key"),
    )
    tracing_here()
    asked = {"any_product", "find_idempotency_key", "await find_idempotency_key"}
    assert not [seen for seen in collector.spans if seen.name in asked]


async def test_a_job_that_the_reconciler_adds_begins_a_trace_of_its_own(
    traced_resources: Resources, redis: Redis, settings: Settings
):
    """One run may add a hundred thousand; an offer of a checkout goes on in the checkout's."""
    queues = traced_resources.queues
    with span("run", SpanKind.CONSUMER) as run:
        trace_id = f"{run.get_span_context().trace_id:032x}"
        jobs = [payment_job(f"p-{n}", f"o-{n}", "card", 1) for n in range(3)]
        await queues.add_all(jobs[:1])
        await queues.replace(jobs[1])
        await queues.offer(jobs[2])

    def carried(job_id: str) -> Any:
        opts = redis.hget(f"{settings.queue_prefix}:payment-processing:{job_id}", "opts")
        return json.loads(opts).get("tm")

    assert (carried("payment-p-0"), carried("payment-p-1")) == (None, None)
    assert json.loads(carried("payment-p-2"))["traceparent"].split("-")[1] == trace_id


@pytest.mark.parametrize(
    ("error", "error_type"),
    [(GatewayUnavailable(reason="hedy"), "GatewayUnavailable"), (Postponed(1.0), None)],
    ids=["failed", "postponed"],
)
async def test_an_attempt_says_how_it_ended(
    collector: Collector,
    tracing_here: Callable[[], None],
    error: Exception,
    error_type: str | None,
):
    async def fail(_delivery: Delivery) -> dict[str, Any]:
        raise error

    job_id = f"job-{type(error).__name__}"
    with pytest.raises(type(error)):
        await traced(fail)(Delivery("payment-processing", "process-payment", job_id, {}, 2))
    tracing_here()
    [attempt] = [seen for seen in collector.spans if seen.attributes.get("bullmq.job.id") == job_id]
    assert attempt.failed == (error_type is not None)
    assert attempt.attributes.get("error.type") == error_type
    assert attempt.attributes["bullmq.job.attempts_made"] == 2
