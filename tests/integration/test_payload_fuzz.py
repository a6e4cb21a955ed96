"""Jobs of any shape: each ends in a result or in words, and the worker goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from bullmq import UnrecoverableError
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tests.integration.conftest import Probe

from orderflow.bull.worker import Delivery
from orderflow.errors import OrderflowError
from orderflow.processor import QueueWorker
from orderflow.resources import Resources, open_resources
from orderflow.settings import Settings
from orderflow.worker_files import load_worker

JOBS = {
    "payment": ["process-payment", "refund"],
    "notification": ["order-confirmation", "payment-failed"],
    "order": ["reconcile", ""],
}
CARD = {"method": "card", "amount": "1.00"}
FIELDS = {"paymentId", "orderId", "paymentData", "userId", "reason", "method", "amount", "data"}

# Whatever JSON text can hold, and a Node producer may have meant or not: halves of surrogates too.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(), max_size=20),
    st.sampled_from(["", "\0", "\ud800", "a\0b", "x" * 300, "1e400", "-1", "NaN", 10**400, 1e308]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
ids = st.sampled_from(["17", 17, "ext:1", "0199a4e8-0000-7000-8000-000000000001"]) | anything
near = st.fixed_dictionaries(
    {},
    optional={
        "paymentId": ids,
        "orderId": ids,
        "paymentData": st.fixed_dictionaries(
            {},
            optional={
                "method": st.sampled_from(["card", "cash", "CARD"]) | anything,
                "amount": st.sampled_from([1, "1.00", 0.1 + 0.2, "9999999999.99", 1e10]) | anything,
            },
        )
        | anything,
        "userId": ids,
        "reason": anything,
        "type": st.sampled_from(["process-payment", "order-confirmation", "payment-failed"])
        | anything,
    },
)
payloads = near | anything


@pytest.mark.parametrize("name", JOBS)
def test_any_data_ends_in_a_result_or_in_words(
    name: str, settings: Settings, database_url: str
) -> None:
    worker = load_worker(name)

    with asyncio.Runner() as runner:
        opened = open_resources(settings)
        resources = runner.run(opened.__aenter__())
        sql = runner.run(asyncpg.connect(database_url))

        @given(payloads, st.sampled_from(JOBS[name]))
        @example({"paymentId": "\0", "orderId": "\0", "paymentData": CARD}, JOBS[name][0])
        @example({"paymentId": "\ud800", "orderId": "\ud800", "paymentData": CARD}, JOBS[name][0])
        @example({"paymentId": 10**400, "orderId": 1, "paymentData": CARD}, JOBS[name][0])
        @example({"orderId": "a\0b", "paymentId": "b\0", "paymentData": CARD}, JOBS[name][0])
        @example([], JOBS[name][0])
        @examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        def any_data(data: Any, job_name: str) -> None:
            runner.run(_one(worker, job_name, data, resources, sql))

        try:
            any_data()
        finally:
            runner.run(sql.close())
            runner.run(opened.__aexit__(None, None, None))


async def _one(
    worker: QueueWorker,
    job_name: str,
    data: Any,
    resources: Resources,
    sql: asyncpg.Connection[asyncpg.Record],
) -> None:
    before = await _rows(sql)
    try:
        result = await worker.process(Delivery(worker.queue, job_name, "1", data), resources)
    except UnrecoverableError as refused:
        told = str(refused)
        assert await _rows(sql) == before, "a refused job wrote"
        # What was wrong with it has a name: a field, or the job's own.
        assert any(word in told for word in FIELDS | {"no job named", "no order", "of order"}), told
    except OrderflowError as failed:
        told = str(failed)
        assert told
        # To try again what the database refuses is in vain.
        assert "PostgreSQL refuses" not in told
    else:
        assert isinstance(result, dict)


async def _rows(sql: asyncpg.Connection[asyncpg.Record]) -> list[Any]:
    return await sql.fetch(
        """SELECT o.id, o.status, o.updated_at, p.id AS payment_id, p.status AS payment_status
           FROM orders o FULL JOIN payments p ON p.order_id = o.id ORDER BY 1, 4"""
    )


SAMPLE = [
    [],
    None,
    "text",
    7,
    {},
    {"paymentId": "\0", "orderId": "\0", "paymentData": CARD},
    {"paymentId": True, "orderId": [1], "paymentData": {"method": 1, "amount": {}}},
    {"paymentId": 1, "orderId": 1, "paymentData": {"method": "card", "amount": 1e308}},
    {"paymentId": "x" * 256, "orderId": 1, "paymentData": CARD},
]


async def test_a_worker_outlives_them_all(settings, resources, probe):
    worker = load_worker("payment")

    async def process(job: Any, _token: str) -> dict[str, Any]:
        return await worker.process(Delivery("probe", job.name, job.id, job.data), resources)

    made: Probe = probe(settings.redis_dsn, settings.queue_prefix, process)
    jobs = [await made.queue.add("process-payment", data, {"attempts": 3}) for data in SAMPLE]
    good = {"paymentId": "last", "orderId": "last", "paymentData": CARD}
    last = await made.queue.add("process-payment", good, {"attempts": 3})
    await made.until(last.isCompleted)

    for job in jobs:
        await made.until(job.isFailed)
        reason = await made.redis.hget(f"{made.prefix}:{job.id}", "failedReason")
        assert any(field in reason for field in FIELDS), reason
