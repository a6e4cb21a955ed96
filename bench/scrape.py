"""What seeing costs while millions of jobs wait: a scrape, a page of jobs, and what a job counts.

    python -m bench.scrape --jobs 5000000

It starts a Redis and a PostgreSQL of its own, lays jobs into the queue of payments as BullMQ keeps
them, a third of them in each priority, scrapes a real exporter as Prometheus does, and asks a real
API for pages of the list of jobs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import timeit
from decimal import Decimal
from types import SimpleNamespace

import httpx
from bullmq import Job
from prometheus_client.utils import floatToGoString

from bench.errors import RowAborted
from bench.processes import python, wait_until
from bench.servers import SECRET, SHOP, Lab, Place, open_lab
from orderflow import metrics
from orderflow.bull.counting import observe_run, observe_wait
from orderflow.charge import count_outcome
from orderflow.contract import PaymentMethod, QueueName
from orderflow.gateways import Approved
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token

_SCRAPES = 100
_IDLE_SCRAPES = 20
_CHUNK = 5_000
_PAGE, _PAGES = 100, 100

#: Jobs FROM to TO, as `addPrioritizedJob` lays them down: the hash, and the place in the line.
_FILL = """
local from, to, now = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local priorities = {1, 10, 20}
for n = from, to do
  local id = "payment-" .. n
  local priority = priorities[n % 3 + 1]
  redis.call("HSET", KEYS[1] .. id, "name", "process-payment", "data", ARGV[4], "opts", ARGV[5],
             "timestamp", now, "delay", 0, "priority", priority)
  redis.call("ZADD", KEYS[1] .. "prioritized", priority * 4294967296 + n, id)
end
"""
_DATA = (
    '{"paymentId":"01a20e5f-6a42-759b-9803-1b7f04d1a4ae",'
    '"orderId":"01a20e5f-6a42-759b-9803-1b7f04d1a4af",'
    '"paymentData":{"method":"card","amount":"11.25"}}'
)
_OPTS = (
    '{"attempts":3,"backoff":{"type":"exponential","delay":2000},"priority":1,'
    '"removeOnComplete":{"age":3600,"count":1000},"removeOnFail":{"age":86400}}'
)


def main() -> int:
    """Measure, and say what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.scrape", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000_000, help="how many (default 5000000)")
    jobs = parser.parse_args().jobs
    print(f"what a payment counts: {_cost_of_a_payment_us():.2f} us", flush=True)
    with open_lab("warning", postgres=True) as lab, lab.place_on(SHOP) as place:
        port = free_port()
        environment = place.environment(EXPORTER_PORT=str(port))
        with lab.running("exporter", python("orderflow.exporter"), environment) as exporter:
            wait_until(lambda: port_is_taken(port), "the exporter", [exporter])
            _measure(port, 0, _IDLE_SCRAPES)
            _fill(lab, place, jobs)
            redis_us, own_s = _redis_us(lab), exporter.cpu_s
            _measure(port, jobs, _SCRAPES)
            print(
                f"of each scrape Redis worked {(_redis_us(lab) - redis_us) / _SCRAPES:,.0f} us, "
                f"and the exporter {(exporter.cpu_s - own_s) / _SCRAPES * 1e3:.1f} ms",
                flush=True,
            )
        _turn_pages(lab, place, jobs)
    return 0


def _fill(lab: Lab, place: Place, jobs: int) -> None:
    started = time.perf_counter()
    fill = lab.redis.register_script(_FILL)
    # A log of them would be as large again, and nothing here depends on it.
    lab.redis.config_set("appendonly", "no")
    for start in range(1, jobs + 1, _CHUNK):
        last = min(start + _CHUNK - 1, jobs)
        now_ms = round(time.time() * 1000)
        fill(
            keys=[f"{place.prefix}:{QueueName.PAYMENTS}:"], args=[start, last, now_ms, _DATA, _OPTS]
        )
    used = lab.redis.info("memory")["used_memory_human"]
    taken_s = time.perf_counter() - started
    print(f"{jobs:,} jobs wait, {used} in Redis, laid down in {taken_s:.0f} s", flush=True)


def _measure(port: int, jobs: int, scrapes: int) -> None:
    url = f"http://127.0.0.1:{port}/metrics"
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    taken_ms = []
    with httpx.Client(headers=headers, trust_env=False) as client:
        for _ in range(scrapes):
            started = time.perf_counter()
            text = client.get(url).raise_for_status().text
            taken_ms.append(1_000 * (time.perf_counter() - started))
    series = f'bullmq_job_count{{queue="{QueueName.PAYMENTS}",state="prioritized"}}'
    told = f"{series} {floatToGoString(jobs)}"
    if not {told, "orderflow_postgres_up 1.0"} <= set(text.splitlines()):
        raise RowAborted(f"the exporter does not tell of {jobs} waiting jobs, or has no PostgreSQL")
    p99 = statistics.quantiles(taken_ms, n=100)[98]
    print(
        f"{jobs:,} waiting: {scrapes} scrapes, median {statistics.median(taken_ms):.1f} ms, "
        f"p99 {p99:.1f} ms, longest {max(taken_ms):.1f} ms",
        flush=True,
    )


def _turn_pages(lab: Lab, place: Place, jobs: int) -> None:
    """Ask for pages at the beginning, in the middle and at the end of the jobs that wait."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/admin/api/queues/{QueueName.PAYMENTS}/jobs"
    token = make_token(SECRET, "operator", admin=True, ttl_s=86_400)
    with (
        lab.running("api", python("orderflow.api"), place.environment(PORT=str(port))) as api,
        httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client,
    ):
        wait_until(lambda: port_is_taken(port), "the API", [api])
        for where, start in {"first": 0, "middle": jobs // 2, "last": jobs - _PAGE}.items():
            query = {"state": "waiting", "start": max(0, start), "limit": _PAGE}
            taken_ms = []
            for _ in range(_PAGES):
                started = time.perf_counter()
                page = client.get(address, params=query).raise_for_status().json()
                taken_ms.append(1_000 * (time.perf_counter() - started))
            if page["total"] != jobs or len(page["jobs"]) != min(_PAGE, jobs):
                raise RowAborted(f"the {where} page is of {page['total']} jobs")
            print(
                f"the {where} {_PAGE} of {jobs:,} waiting jobs: median "
                f"{statistics.median(taken_ms):.1f} ms, longest {max(taken_ms):.1f} ms",
                flush=True,
            )


def _redis_us(lab: Lab) -> int:
    """Return how long Redis has worked on commands since its start."""
    return sum(command["usec"] for command in lab.redis.info("commandstats").values())


def _cost_of_a_payment_us() -> float:
    """Return what all that a payment's job counts costs, alone: no other job shares a batch."""
    job: Job = SimpleNamespace(timestamp=round(time.time() * 1000), opts={"delay": 0})
    amount = Decimal("11.25")
    queue, trace_id, paid = QueueName.PAYMENTS.value, "0" * 32, Approved("ch_1")

    def count() -> None:
        observe_wait(job, queue, trace_id)
        observe_run(time.perf_counter(), queue, trace_id)
        metrics.JOB_ATTEMPTS[queue, "completed"] += 1
        metrics.JOB_OFFERS[queue, "added"] += 1
        metrics.GATEWAY_SECONDS.observe(0.002, ("gateway", "charge", "approved"))
        count_outcome(paid, PaymentMethod.CARD, amount, "EUR")
        for statement in ("begin_charge", "settle_paid"):
            metrics.BATCH_SIZE.observe(1, (statement,))
        for _ in range(2):
            metrics.PIPELINE_COMMANDS.observe(1)

    number = 100_000
    # By the time that this process computed: whatever else runs on the machine does not count.
    return min(timeit.repeat(count, timer=time.process_time, number=number)) / number * 1e6


if __name__ == "__main__":
    sys.exit(main())
