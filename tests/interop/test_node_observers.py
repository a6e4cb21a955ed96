"""What Node's own tools see of jobs that our workers ran."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.conftest import wait_until
from tests.interop.bridge import NodeError
from tests.interop.conftest import NODE_OPTIONS, foreign_data

PAYMENTS = "payment-processing"


def pay(node: Any, **changes: Any) -> str:
    job_id: str = node.add(PAYMENTS, "process-payment", foreign_data(**changes), NODE_OPTIONS)
    return job_id


async def test_wait_until_finished_gives_the_result_as_an_object(node, start_worker):
    start_worker("payment")
    node.ask("watch", queue=PAYMENTS)
    result = node.ask("waitUntilFinished", queue=PAYMENTS, jobId=pay(node), ttl=20_000)
    assert set(result) == {"success", "transactionId"}
    assert result["success"] is True
    assert isinstance(result["transactionId"], str)


async def test_wait_until_finished_throws_a_reason_that_a_person_can_read(node, start_worker):
    start_worker("payment")
    node.ask("watch", queue=PAYMENTS)
    job_id = node.add(PAYMENTS, "refund", {}, NODE_OPTIONS)
    with pytest.raises(NodeError, match="has no job named 'refund'; it knows: process-payment"):
        node.ask("waitUntilFinished", queue=PAYMENTS, jobId=job_id, ttl=20_000)


async def test_queue_events_tell_each_step_of_a_job_in_order(node, start_worker):
    start_worker("probe")
    node.ask("watch", queue="probe")
    options = {"attempts": 2, "backoff": {"type": "fixed", "delay": 50}}
    job_id = node.add("probe", "probe", {"key": "steps", "failTimes": 1}, options)
    node.ask("waitUntilFinished", queue="probe", jobId=job_id, ttl=20_000)

    def steps() -> list[str]:
        seen = [e for e in node.ask("seen", queue="probe") if e["event"] != "drained"]
        return [entry["event"] for entry in seen if entry["args"]["jobId"] == job_id]

    wait_until(lambda: "completed" in steps(), "the event of the end")
    assert steps() == [
        "added",
        "waiting",
        "active",
        "delayed",
        "waiting",
        "active",
        "completed",
    ]


async def test_the_last_failure_is_told_as_failed_and_as_retries_exhausted(node, start_worker):
    start_worker("probe")
    node.ask("watch", queue="probe")
    job_id = node.add("probe", "probe", {"key": "end", "failTimes": 9}, {"attempts": 2})

    def told(name: str) -> list[dict[str, Any]]:
        seen = node.ask("seen", queue="probe")
        return [entry["args"] for entry in seen if entry["event"] == name]

    wait_until(lambda: bool(told("retries-exhausted")), "the end of the attempts")
    assert told("retries-exhausted") == [{"jobId": job_id, "attemptsMade": "2"}]
    [failed] = told("failed")
    assert (failed["jobId"], failed["failedReason"]) == (job_id, "as asked")


async def test_node_reads_a_completed_job_in_full(node, start_worker, keys):
    start_worker("payment")
    job_id = pay(node)
    keys(PAYMENTS).wait_for("completed", 1)
    [job] = node.ask("getJobs", queue=PAYMENTS, types=["completed"], start=0, end=-1, asc=True)
    assert job["id"] == job_id
    assert job["returnvalue"].keys() == {"success", "transactionId"}
    assert (job["attemptsMade"], job["attemptsStarted"]) == (1, 1)
    assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
    assert job["stacktrace"] == []
    assert job["progress"] == 0
    assert "failedReason" not in job


async def test_node_reads_a_failed_job_in_full(node, start_worker, keys):
    start_worker("payment")
    node.add(PAYMENTS, "refund", {}, NODE_OPTIONS)
    keys(PAYMENTS).wait_for("failed", 1)
    [job] = node.ask("getJobs", queue=PAYMENTS, types=["failed"], start=0, end=-1, asc=True)
    assert job["failedReason"].startswith("The queue 'payment-processing' has no job named")
    assert isinstance(job["stacktrace"], list)
    assert "UnrecoverableError" in job["stacktrace"][0]
    assert job["attemptsMade"] == 1
    assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
    assert job["returnvalue"] is None


async def test_processed_by_names_the_worker(node, start_worker, keys):
    start_worker("probe")
    job_id = node.add("probe", "probe", {}, NODE_OPTIONS)
    keys("probe").wait_for("completed", 1)
    assert node.job("probe", job_id).get("processedBy"), "the worker that ran it has a name"


async def test_node_reads_the_progress_and_logs_that_python_wrote(node, resources):
    queue = resources.queues.queue("probe")
    job = await queue.add("probe", {})
    await job.updateProgress({"done": 1, "of": 2})
    await job.log("charged")
    assert node.job("probe", job.id)["progress"] == {"done": 1, "of": 2}
    logs = node.ask("getJobLogs", queue="probe", jobId=job.id)
    assert logs == {"logs": ["charged"], "count": 1}


async def test_node_counts_what_we_completed_and_failed_as_metrics(node, start_worker, keys):
    start_worker("probe")
    for _ in range(3):
        node.add("probe", "probe", {}, NODE_OPTIONS)
    node.add("probe", "unknown", {}, NODE_OPTIONS)
    keys("probe").wait_for("completed", 3)
    keys("probe").wait_for("failed", 1)
    assert node.ask("getMetrics", queue="probe", type="completed")["meta"]["count"] == 3
    assert node.ask("getMetrics", queue="probe", type="failed")["meta"]["count"] == 1


async def test_kept_jobs_are_those_that_the_options_say(node, start_worker, keys):
    start_worker("probe")
    options = {"attempts": 1, "removeOnComplete": {"age": 3600, "count": 5}}
    last = [node.add("probe", "probe", {}, options) for _ in range(20)][-5:]
    wait_until(lambda: len(keys("probe").events("completed")) == 20, "twenty ends")
    assert keys("probe").ids("completed") == last


async def test_bull_board_lists_the_jobs_and_their_ends(node, start_worker, keys):
    start_worker("payment")
    done, refused = pay(node), node.add(PAYMENTS, "refund", {}, NODE_OPTIONS)
    keys(PAYMENTS).wait_for("completed", 1)
    keys(PAYMENTS).wait_for("failed", 1)
    url = node.ask("startBoard", queues=[PAYMENTS, "notifications"])
    async with httpx.AsyncClient(base_url=url, trust_env=False) as board:
        listed = (await board.get("/api/queues", params={"activeQueue": PAYMENTS})).json()
        [payments] = [queue for queue in listed["queues"] if queue["name"] == PAYMENTS]
        assert payments["counts"]["completed"] == 1
        assert payments["counts"]["failed"] == 1
        jobs = {job["id"]: job for job in payments["jobs"]}
        assert jobs[done]["returnValue"]["success"] is True
        assert jobs[done]["isFailed"] is False
        assert "no job named 'refund'" in jobs[refused]["failedReason"]
        assert isinstance(jobs[refused]["stacktrace"], list)
        assert jobs[refused]["isFailed"] is True
        one = (await board.get(f"/api/queues/{PAYMENTS}/{done}")).json()
        assert (one["status"], one["job"]["attempts"]) == ("completed", 1)
        logs = await board.get(f"/api/queues/{PAYMENTS}/{done}/logs")
        assert isinstance(logs.json(), list)
        metrics = await board.get(f"/api/queues/{PAYMENTS}/metrics")
        assert metrics.status_code == httpx.codes.OK


async def test_bull_board_sees_our_worker(node, start_worker):
    start_worker("payment")
    url = node.ask("startBoard", queues=[PAYMENTS])
    async with httpx.AsyncClient(base_url=url, trust_env=False) as board:
        listed = (await board.get("/api/queues")).json()
        workers = (await board.get(f"/api/queues/{PAYMENTS}/workers")).json()
    assert listed["queues"][0]["hasWorkers"] is True
    assert len(workers["workers"]) == 1, json.dumps(workers)


async def test_bull_board_retries_a_job_that_we_then_run(node, start_worker, keys):
    start_worker("probe")
    job_id = node.add("probe", "probe", {"key": "again", "failTimes": 1}, {"attempts": 1})
    keys("probe").wait_for("failed", 1)
    url = node.ask("startBoard", queues=["probe"])
    async with httpx.AsyncClient(base_url=url, trust_env=False) as board:
        answer = await board.put(f"/api/queues/probe/{job_id}/retry")
        assert answer.status_code < 300, answer.text
    keys("probe").wait_for("completed", 1)
