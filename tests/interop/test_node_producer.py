"""Jobs that Node services add, run by our workers as processes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.integration.reconciling import lose_all_jobs
from tests.interop.bridge import Node, NodeError
from tests.interop.conftest import NODE_OPTIONS, foreign_data, foreign_id, payment_data

from orderflow.checkout import Receipt
from orderflow.resources import Resources
from orderflow.testing import perform_job

PAYMENTS = "payment-processing"
NOTIFICATIONS = "notifications"


async def status_of(sql: Any, order_id: object) -> tuple[str, str]:
    row = await sql.fetchrow(
        "SELECT status, payment_status FROM order_details WHERE id = $1", order_id
    )
    return (row["status"], row["payment_status"])


def ended(node: Node, queue: str, job_id: str) -> dict[str, Any]:
    """Wait for a job's end and return it as Node reads it."""
    wait_until(lambda: node.job(queue, job_id)["state"] in ("completed", "failed"), f"job {job_id}")
    return node.job(queue, job_id)


@pytest.fixture
def forget(node: Node) -> Any:
    """Take back the job that our own checkout added, so that Node's is the only one."""
    return lambda queue: node.ask("drain", queue=queue)


@pytest.fixture
def place_and_end(place: Any, resources: Resources, redis: Any) -> Any:
    """Place an order and bring it to its end; its notification is left to a Node service."""

    async def place_and_end(**changes: Any) -> Receipt:
        receipt: Receipt = await place(**changes)
        await perform_job("payment", "process-payment", payment_data(receipt), resources)
        lose_all_jobs(redis, resources)
        return receipt

    return place_and_end


async def test_an_order_of_ours_is_charged_for_what_its_row_says(
    node, place, forget, start_worker, gateway_server, sql
):
    receipt = await place()
    forget(PAYMENTS)
    start_worker("payment")
    job_id = node.add(
        PAYMENTS, "process-payment", payment_data(receipt), NODE_OPTIONS | {"priority": 1}
    )
    job = ended(node, PAYMENTS, job_id)
    entry = gateway_server.charge(receipt.payment_id)
    assert job["returnvalue"] == {"success": True, "transactionId": entry["id"]}
    assert (entry["amount"], entry["currency"]) == (str(receipt.total), "EUR")
    assert await status_of(sql, receipt.order_id) == ("confirmed", "completed")


@pytest.mark.parametrize("amount", [68, 68.0, "68", "68.00", "68.0"])
async def test_an_amount_may_be_a_number_or_text(
    node6, place, start_worker, gateway_server, amount
):
    receipt = await place()
    node6.ask("drain", queue=PAYMENTS)
    start_worker("payment")
    data = payment_data(receipt, paymentData={"method": "card", "amount": amount})
    job = ended(node6, PAYMENTS, node6.add(PAYMENTS, "process-payment", data, NODE_OPTIONS))
    assert job["state"] == "completed", job["failedReason"]
    assert gateway_server.charge(receipt.payment_id)["amount"] == "68.00"


async def test_what_a_float_sum_in_node_adds_below_a_cent_does_no_harm(
    node6, start_worker, gateway_server
):
    start_worker("payment")
    # 3 * 1.10 in JavaScript.
    data = foreign_data(3.3000000000000003)
    job = ended(node6, PAYMENTS, node6.add(PAYMENTS, "process-payment", data, NODE_OPTIONS))
    assert job["state"] == "completed", job["failedReason"]
    assert gateway_server.charge(data["paymentId"])["amount"] == "3.30"


async def test_an_amount_that_disagrees_fails_at_once_without_a_charge(
    node, place, forget, start_worker, gateway_server, sql
):
    receipt = await place()
    forget(PAYMENTS)
    start_worker("payment")
    data = payment_data(receipt, paymentData={"method": "card", "amount": 1})
    job = ended(node, PAYMENTS, node.add(PAYMENTS, "process-payment", data, NODE_OPTIONS))
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert f"asks for 1 but payment '{receipt.payment_id}' is for 68.00 EUR" in job["failedReason"]
    assert gateway_server.charge(receipt.payment_id) is None
    assert await status_of(sql, receipt.order_id) == ("pending", "pending")


@pytest.mark.parametrize("kind", ["number", "text", "colon"])
@pytest.mark.parametrize("amount", [19.99, "19.99", 20, "20"])
async def test_an_order_that_we_do_not_know_is_adopted(
    node6, start_worker, gateway_server, sql, kind, amount
):
    spelled = {"number": "{}", "text": "shop-{}", "colon": "shop:{}"}[kind]
    ids = [spelled.format(foreign_id()) for _ in range(2)]
    payment_id, order_id = map(int, ids) if kind == "number" else ids
    data = foreign_data(amount, paymentId=payment_id, orderId=order_id, extra={"of": ["Node"]})
    start_worker("payment")
    job = ended(node6, PAYMENTS, node6.add(PAYMENTS, "process-payment", data, NODE_OPTIONS))
    entry = gateway_server.charge(payment_id)
    assert job["returnvalue"] == {"success": True, "transactionId": entry["id"]}
    assert entry["amount"] == f"{float(amount):.2f}"
    assert job["data"] == data, "the payload stays as Node wrote it"
    row = await sql.fetchrow("SELECT source, external_id, status FROM orders")
    assert tuple(row) == ("external", str(order_id), "confirmed")


@pytest.mark.parametrize("missing", ["paymentId", "orderId", "paymentData"])
async def test_incomplete_data_fails_naming_the_field(node, start_worker, sql, missing):
    data = foreign_data()
    del data[missing]
    start_worker("payment")
    job = ended(node, PAYMENTS, node.add(PAYMENTS, "process-payment", data, NODE_OPTIONS))
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert f"{missing}: Field required" in job["failedReason"]
    assert await sql.fetchval("SELECT count(*) FROM orders") == 0


NOTIFICATION_JOBS = (
    "order-cancelled, order-confirmation, order-delivered, order-refunded, order-shipped, "
    "payment-failed"
)


async def test_an_unknown_job_fails_at_once_with_the_names_known(node, start_worker):
    start_worker("payment")
    start_worker("notification")
    for queue, known in [
        (PAYMENTS, "it knows: process-payment"),
        (NOTIFICATIONS, f"it knows: {NOTIFICATION_JOBS}"),
    ]:
        job = ended(node, queue, node.add(queue, "refund", foreign_data(), NODE_OPTIONS))
        assert (job["state"], job["attemptsMade"]) == ("failed", 1)
        assert f"no job named 'refund'; {known}" in job["failedReason"]


@pytest.mark.parametrize("typed", [True, False], ids=["with type", "without type"])
@pytest.mark.parametrize("named", ["order-confirmation", "payment-failed"])
async def test_the_notification_jobs_with_and_without_a_type(
    node, place_and_end, start_worker, mail_server, named, typed
):
    declined = named == "payment-failed"
    receipt = await place_and_end(paymentToken="tok_decline" if declined else "tok_approve")
    data = {"orderId": str(receipt.order_id), "userId": 7, "reason": "card_declined"}
    if typed:
        data["type"] = named
    start_worker("notification")
    options = NODE_OPTIONS | {"priority": 10 if declined else 1}
    job = ended(node, NOTIFICATIONS, node.add(NOTIFICATIONS, named, data, options))
    assert job["returnvalue"] == {"success": True, "sent": ["email"]}, job.get("failedReason")
    assert len(mail_server.mails(receipt.order_id)) == 1


async def test_a_job_named_only_by_its_type_is_run(node6, place_and_end, start_worker):
    receipt = await place_and_end()
    data = {"type": "order-confirmation", "orderId": str(receipt.order_id), "userId": "7"}
    start_worker("notification")
    job = ended(node6, NOTIFICATIONS, node6.add(NOTIFICATIONS, "notification", data, NODE_OPTIONS))
    assert job["returnvalue"] == {"success": True, "sent": ["email"]}, job.get("failedReason")


async def test_the_name_wins_over_the_type(node6, place_and_end, start_worker, mail_server):
    receipt = await place_and_end()
    data = {"type": "payment-failed", "orderId": str(receipt.order_id), "userId": "7"}
    start_worker("notification")
    ended(node6, NOTIFICATIONS, node6.add(NOTIFICATIONS, "order-confirmation", data, NODE_OPTIONS))
    [mail] = mail_server.mails(receipt.order_id)
    assert "confirmed" in str(mail["Subject"]).lower()


async def test_nobody_is_told_of_an_order_that_has_not_ended(
    node6, place, start_worker, mail_server
):
    receipt = await place()
    data = {"orderId": str(receipt.order_id), "userId": "7"}
    start_worker("notification")
    options = NODE_OPTIONS | {"attempts": 1}
    job = ended(node6, NOTIFICATIONS, node6.add(NOTIFICATIONS, "order-confirmation", data, options))
    assert mail_server.mails(receipt.order_id) == []
    assert job["state"] == "failed"
    assert "ada@shop.example" not in job["failedReason"], "a reason is for people, not their data"


async def test_a_delayed_job_waits_its_delay(node, start_worker):
    start_worker("probe")
    job_id = node.add("probe", "probe", {}, NODE_OPTIONS | {"delay": 700})
    job = ended(node, "probe", job_id)
    waited_ms = job["processedOn"] - job["timestamp"]
    assert 700 <= waited_ms < 800


async def test_lifo_jobs_run_before_those_that_wait(node, start_worker, keys):
    added = [
        node.add("probe", "probe", {}, {"lifo": lifo, "attempts": 1})
        for lifo in (False, False, True, True)
    ]
    start_worker("probe")
    keys("probe").wait_for("completed", 4)
    first, second, third, fourth = added
    ran = [event["jobId"] for event in keys("probe").events("active")]
    assert ran == [fourth, third, first, second]


async def test_a_job_id_of_nodes_choice_is_kept_and_adds_once(node, start_worker, keys):
    for _ in range(2):
        node.add("probe", "probe", {}, NODE_OPTIONS | {"jobId": "shop-7"})
    start_worker("probe")
    keys("probe").wait_for("completed", 1)
    assert node.add("probe", "probe", {}, NODE_OPTIONS | {"jobId": "shop-7"}) == "shop-7"
    assert node.job("probe", "shop-7")["attemptsStarted"] == 1
    assert keys("probe").count("wait") == 0


async def test_deduplication_holds_until_our_worker_ends_the_job(node, start_worker, keys):
    options = NODE_OPTIONS | {"deduplication": {"id": "of-order-7"}}
    first = node.add("probe", "probe", {}, options)
    assert node.add("probe", "probe", {}, options) == first
    start_worker("probe")
    keys("probe").wait_for("completed", 1)
    second = node.add("probe", "probe", {}, options)
    assert second != first
    keys("probe").wait_for("completed", 2)
    assert node.job("probe", second)["state"] == "completed"


async def test_deduplication_with_a_ttl_throttles(node, start_worker, keys):
    options = NODE_OPTIONS | {"deduplication": {"id": "of-order-8", "ttl": 60_000}}
    first = node.add("probe", "probe", {}, options)
    start_worker("probe")
    keys("probe").wait_for("completed", 1)
    assert node.add("probe", "probe", {}, options) == first


async def test_keep_logs_and_the_stack_trace_limit_are_heeded(node, start_worker):
    start_worker("probe")
    options = {
        "attempts": 4,
        "backoff": {"type": "fixed", "delay": 20},
        "keepLogs": 2,
        "stackTraceLimit": 2,
    }
    data = {"key": "limits", "failTimes": 4, "fail": "no luck"}
    job = ended(node, "probe", node.add("probe", "probe", data, options))
    assert (job["attemptsMade"], job["failedReason"]) == (4, "no luck")
    assert len(job["stacktrace"]) == 2
    assert all("ValueError: no luck" in trace for trace in job["stacktrace"])
    assert job["opts"]["keepLogs"] == 2


async def test_a_size_limit_is_nodes_to_refuse_and_ours_to_run(node, start_worker):
    start_worker("probe")
    with pytest.raises(NodeError, match="exceeds the limit 20 bytes"):
        node.add("probe", "probe", {"key": "x" * 20}, {"sizeLimit": 20})
    job_id = node.add("probe", "probe", {"key": "x"}, NODE_OPTIONS | {"sizeLimit": 200})
    assert ended(node, "probe", job_id)["state"] == "completed"


async def test_jobs_added_in_bulk_are_all_run(node, start_worker, keys):
    start_worker("probe")
    jobs = [{"name": "probe", "data": {}, "opts": NODE_OPTIONS} for _ in range(100)]
    assert len(set(node.ask("addBulk", queue="probe", jobs=jobs))) == 100
    keys("probe").wait_for("completed", 100)


def flow_of(*children: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "probe",
        "queueName": "parents",
        "data": {"value": {"of": "the parent"}},
        "opts": {"attempts": 1},
        "children": [
            {"name": "probe", "queueName": "probe", "opts": {"attempts": 1}} | child
            for child in children
        ],
    }


async def test_a_flow_of_node_waits_for_children_that_we_run(node, start_worker):
    flow = flow_of({"data": {"value": {"n": 1}}}, {"data": {"value": {"n": 2}}})
    tree = node.ask("addFlow", flow=flow)
    assert node.job("parents", tree["id"])["state"] == "waiting-children"
    start_worker("probe")
    node.ask("startWorker", queue="parents")
    assert ended(node, "parents", tree["id"])["returnvalue"] == {"of": "the parent"}
    values = node.ask("getDependencies", queue="parents", jobId=tree["id"])["values"]
    assert sorted(value["n"] for value in values.values()) == [1, 2]


async def test_we_run_a_parent_whose_children_node_ran(node, start_worker):
    tree = node.ask("addFlow", flow=flow_of({"data": {"value": {"n": 1}}}))
    node.ask("startWorker", queue="probe")
    start_worker("probe", PROBE_QUEUE="parents")
    assert ended(node, "parents", tree["id"])["returnvalue"] == {"of": "the parent"}


@pytest.mark.parametrize(
    ("option", "state"),
    [
        ("failParentOnFailure", "failed"),
        ("ignoreDependencyOnFailure", "completed"),
        ("removeDependencyOnFailure", "completed"),
        ("continueParentOnFailure", "completed"),
    ],
)
async def test_a_child_that_fails_with_us_does_to_its_parent_what_it_was_asked(
    node, start_worker, option, state
):
    child = {"data": {"unrecoverable": "no"}, "opts": {"attempts": 1, option: True}}
    tree = node.ask("addFlow", flow=flow_of(child))
    start_worker("probe")
    start_worker("probe", PROBE_QUEUE="parents")
    parent = ended(node, "parents", tree["id"])
    assert parent["state"] == state, parent.get("failedReason")
    assert node.job("probe", tree["children"][0])["failedReason"] == "no"


async def test_a_job_scheduler_of_node_goes_on_when_we_run_its_jobs(node, start_worker, keys):
    template = {"name": "probe", "data": {"value": {"n": 1}}, "opts": NODE_OPTIONS}
    node.ask(
        "upsertJobScheduler",
        queue="probe",
        schedulerId="every-200",
        repeat={"every": 200},
        template=template,
    )
    start_worker("probe")
    wait_until(lambda: keys("probe").count("completed") >= 5, "five runs", 10)
    [scheduler] = node.ask("getJobSchedulers", queue="probe")
    assert (scheduler["key"], scheduler["every"]) == ("every-200", 200)
    assert keys("probe").count("delayed") <= 1, "one iteration at a time"
    done = node.ask("getJobs", queue="probe", types=["completed"], start=0, end=-1, asc=True)
    starts = [job["processedOn"] for job in done[1:5]]
    assert all(150 <= b - a <= 300 for a, b in pairwise(starts)), starts
    assert all(job["repeatJobKey"] == "every-200" for job in done)
    assert all(job["opts"]["attempts"] == 3 for job in done)


async def test_a_cron_scheduler_of_node_with_a_limit_ends_at_it(node, start_worker, keys):
    node.ask(
        "upsertJobScheduler",
        queue="probe",
        schedulerId="each-second",
        repeat={"pattern": "* * * * * *", "limit": 2, "tz": "Europe/Berlin"},
        template={"name": "probe", "data": {}, "opts": NODE_OPTIONS},
    )
    start_worker("probe")
    keys("probe").wait_for("completed", 2, 10)
    wait_until(lambda: keys("probe").count("delayed") == 0, "no third iteration")
    assert keys("probe").count("completed") == 2


async def test_a_scheduled_job_that_fails_with_us_keeps_its_schedule(node, start_worker, keys):
    node.ask(
        "upsertJobScheduler",
        queue="probe",
        schedulerId="failing",
        repeat={"every": 200},
        template={"name": "unknown", "data": {}, "opts": NODE_OPTIONS},
    )
    start_worker("probe")
    wait_until(lambda: keys("probe").count("failed") >= 3, "three failed runs", 10)
