"""The metrics of processes: one port for a program, whatever number of them it has."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.conftest import (
    SECRET,
    Program,
    events,
    process_environment,
    start_program,
    wait_until,
)
from tests.scraping import Scrape

from orderflow.bull.queues import open_queues
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"

#: A job does what its data say; `hold` keeps it until the file `gate` is there.
WORKER = """
import asyncio
from pathlib import Path

from bullmq import UnrecoverableError

from orderflow.contract import Payload
from orderflow.errors import GatewayResting, GatewayUnavailable
from orderflow.processor import QueueWorker

worker = QueueWorker("probe", 4)
postponed = set()


class Probe(Payload):
    do: str = "complete"
    key: str = ""


@worker.handles("probe", Probe)
async def probe(job, _resources):
    while job.do == "hold" and not Path("gate").exists():
        await asyncio.sleep(0.01)
    if job.do == "retry":
        raise GatewayUnavailable(reason="HTTP 503")
    if job.do == "crash":
        raise KeyError("missing")
    if job.do == "give up":
        raise UnrecoverableError("no use")
    if job.do == "postpone" and job.key not in postponed:
        postponed.add(job.key)
        raise GatewayResting(reason="HTTP 503", retry_after_s=0.05)
    return {"done": True}
"""


class Shop:
    """Programs of one shop with their metrics."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.port = free_port()
        self.programs: list[Program] = []

    def start(self, *args: str, **variables: str) -> Program:
        log = self.folder / f"{len(self.programs)}.log"
        environment = process_environment(self.settings) | {"METRICS_PORT": str(self.port)}
        program = start_program(log, *args, environment=environment | variables)
        self.programs.append(program)
        return program

    def start_worker(self, *options: str, processes: int = 1, **variables: str) -> Program:
        program = self.start("orderflow.worker", "probe", *options, **variables)
        started = lambda: len(events(program, "worker started")) == processes  # noqa: E731
        wait_until(started, "the worker")
        return program

    async def add(self, **data: Any) -> None:
        """Add a job with one attempt, or as many as `attempts`, and other options of BullMQ."""
        opts = {name: data.pop(name) for name in ("attempts", "backoff", "tm") if name in data}
        async with open_queues(self.settings) as queues:
            await queues.queue("probe").add("probe", data, {"attempts": 1, **opts})

    def scrape(self) -> Scrape:
        return Scrape(self.port)

    def wait_for_attempts(self, **counts: int) -> Scrape:
        """Return the first scrape with so many attempts by their outcome, over all processes."""

        def reached() -> bool:
            scrape = self.scrape()
            name = "orderflow_job_attempts_total"
            return all(
                scrape.sum(name, queue="probe", outcome=outcome) == count
                for outcome, count in counts.items()
            )

        wait_until(reached, f"attempts {counts}")
        return self.scrape()


@pytest.fixture
def shop(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "probe.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    shop = Shop(tmp_path, settings)
    yield shop
    for program in shop.programs:
        # Not killed: the processes of an API go on without their parent.
        program.stop()


async def test_attempts_are_counted_by_how_they_end(shop):
    program = shop.start_worker()
    await shop.add()
    await shop.add(do="retry", attempts=2, backoff={"type": "fixed", "delay": 1})
    await shop.add(do="crash")
    await shop.add(do="give up", attempts=3)
    await shop.add(do="postpone", key="a")
    scrape = shop.wait_for_attempts(completed=2, retried=1, failed=3, postponed=1)
    assert scrape.values("orderflow_job_retries_total", "reason") == {"GatewayUnavailable": 1}
    assert scrape.values("orderflow_job_failures_total", "reason") == {
        "GatewayUnavailable": 1,
        "KeyError": 1,
        "UnrecoverableError": 1,
    }
    # Each attempt ran, and each job waited for its first one only.
    assert scrape.sum("orderflow_job_run_seconds_count", queue="probe") == 7
    assert scrape.sum("orderflow_job_wait_seconds_count", queue="probe") == 6
    assert scrape.sum("orderflow_worker_slots") == 4
    assert scrape.sum("orderflow_worker_slots_busy") == 0
    assert program.stop() == 0


async def test_a_buckets_exemplar_is_the_trace_that_the_job_brought(shop):
    shop.start_worker()
    await shop.add(tm=json.dumps({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}))
    scrape = shop.wait_for_attempts(completed=1)
    for name in ("orderflow_job_run_seconds_bucket", "orderflow_job_wait_seconds_bucket"):
        [exemplar] = [s.exemplar for s in scrape.samples(name, queue="probe") if s.exemplar]
        assert exemplar.labels == {"trace_id": TRACE}


def test_the_plain_text_format_is_served_as_well(shop):
    shop.start_worker()
    answer = httpx.get(f"http://127.0.0.1:{shop.port}/metrics", trust_env=False)
    assert answer.headers["Content-Type"].startswith("text/plain")
    slots = 'orderflow_worker_slots{process="0",queue="probe"} 4.0'
    assert slots in answer.text.splitlines()


async def test_all_processes_are_told_of_on_one_port(shop):
    program = shop.start_worker("--processes", "2", processes=2)
    for _ in range(8):
        await shop.add(do="hold")
    wait_until(lambda: shop.scrape().sum("orderflow_worker_slots_busy") == 8, "all slots busy")
    assert shop.scrape().values("orderflow_worker_slots_busy", "process") == {"0": 4, "1": 4}
    (shop.folder / "gate").touch()
    scrape = shop.wait_for_attempts(completed=8)
    assert scrape.sum("orderflow_processes") == 2
    done = scrape.values("orderflow_job_attempts_total", "process", outcome="completed")
    assert done == {"0": 4, "1": 4}
    assert program.stop() == 0


async def test_a_process_that_is_replaced_takes_over_its_number(shop):
    program = shop.start_worker("--processes", "2", processes=2)
    killed, _spared = psutil.Process(program.process.pid).children()
    killed.kill()
    wait_until(lambda: shop.scrape().sum("orderflow_processes") == 1, "its absence")
    wait_until(lambda: shop.scrape().sum("orderflow_processes") == 2, "its replacement")
    assert set(shop.scrape().values("orderflow_worker_slots", "process")) == {"0", "1"}


async def test_a_process_that_stands_still_does_not_hide_the_others(shop):
    program = shop.start_worker("--processes", "2", processes=2)
    frozen, _other = psutil.Process(program.process.pid).children()
    frozen.send_signal(signal.SIGSTOP)
    try:
        assert shop.scrape().sum("orderflow_processes") == 1
        assert shop.scrape().sum("orderflow_worker_slots") == 4
    finally:
        frozen.send_signal(signal.SIGCONT)


def test_without_a_port_nothing_is_served(shop):
    program = shop.start_worker(METRICS_PORT="")
    listening = [
        connection.laddr.port
        for connection in psutil.Process(program.process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == []


@pytest.mark.parametrize(
    ("args", "status"),
    [(("orderflow.worker", "probe", "--processes", "2"), 2), (("orderflow.api",), 1)],
    ids=["worker", "api"],
)
def test_many_processes_without_a_temporary_folder_are_told_so(shop, args, status):
    # Python takes the current folder where no other can be written.
    sealed = shop.folder / "sitecustomize.py"
    sealed.write_text("import tempfile\ntempfile.tempdir = '/proc/none'\n")
    program = shop.start(
        *args,
        PYTHONPATH=str(shop.folder),
        PORT=str(free_port()),
        JWT_SECRET=SECRET,
        WEB_CONCURRENCY="2",
    )
    assert program.process.wait(30) == status
    assert program.log.read_text() == (
        "METRICS_PORT: Metrics cannot be served: its processes need a temporary folder, "
        "No such file or directory.\n"
    )


def test_the_option_wins_over_the_setting(shop):
    port = free_port()
    shop.start_worker("--metrics-port", str(port))
    assert Scrape(port).sum("orderflow_worker_slots") == 4


@pytest.mark.parametrize("processes", [1, 2])
def test_the_option_of_the_api_wins_over_the_setting(shop, processes):
    port = free_port()
    shop.start(
        *("orderflow.api", "--metrics-port", str(port)),
        PORT=str(free_port()),
        JWT_SECRET=SECRET,
        WEB_CONCURRENCY=str(processes),
    )

    def serves() -> bool:
        try:
            return Scrape(port).sum("orderflow_processes") == processes
        except httpx.TransportError:
            return False

    wait_until(serves, "the API's metrics")
    with pytest.raises(httpx.ConnectError):
        shop.scrape()


@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["one", "many"])
def test_a_taken_port_is_told_by_its_setting(shop, redis_server, options):
    program = shop.start("orderflow.worker", "probe", *options, METRICS_PORT=str(redis_server.port))
    assert program.process.wait(30) == 2
    assert program.log.read_text() == (
        f"METRICS_PORT: Cannot listen on 127.0.0.1:{redis_server.port}: Address already in use.\n"
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_the_requests_of_all_processes_of_the_api(shop, resources, processes):
    assert resources, "the catalogue"
    port = free_port()
    shop.start(
        "orderflow.api",
        PORT=str(port),
        JWT_SECRET=SECRET,
        WEB_CONCURRENCY=str(processes),
        CHECKOUTS_IN_FLIGHT="77",
    )
    token = make_token(SECRET, "user-1")
    url = f"http://127.0.0.1:{port}"

    def ask(method: str, path: str, **request: Any) -> httpx.Response:
        # A connection each, so that any of the processes may get it.
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, f"{url}{path}", headers=headers, trust_env=False, **request)

    def serves() -> bool:
        try:
            ask("GET", "/livez")
            return bool(Scrape(shop.port).sum("orderflow_processes") == processes)
        except httpx.TransportError:
            return False

    wait_until(serves, "the API")
    body = {
        "items": [{"sku": "pot-glass", "quantity": 2}],
        "paymentMethod": "card",
        "contact": {"email": "ada@shop.example"},
    }
    orders = [ask("POST", "/checkout", json=body).json() for _ in range(10)]
    assert ask("POST", "/checkout", json={}).status_code == 422
    assert ask("GET", f"/orders/{orders[0]['orderId']}").status_code == 200
    assert ask("PURGE", "/nowhere/42").status_code == 404
    scrape = shop.scrape()

    def count(route: str, method: str, status: int) -> float:
        labels = {"route": route, "method": method, "status": str(status)}
        return scrape.sum("orderflow_http_request_seconds_count", **labels)

    assert count("/checkout", "POST", 202) == 10
    assert count("/checkout", "POST", 422) == 1
    assert count("/orders/{order_id}", "GET", 200) == 1
    assert count("other", "other", 404) == 1
    assert scrape.sum("orderflow_orders_total", outcome="placed") == 10
    total = sum(float(order["total"]) for order in orders)
    assert scrape.sum("orderflow_money_total", kind="ordered", currency="EUR") == total
    assert scrape.sum("orderflow_job_offers_total", outcome="added") == 10
    assert scrape.sum("orderflow_checkouts_in_flight") == 0
    assert scrape.sum("orderflow_checkouts_in_flight_max") == 77 * processes


def test_a_taken_port_stops_the_api_before_it_serves(shop, redis_server):
    program = shop.start(
        "orderflow.api",
        PORT=str(free_port()),
        JWT_SECRET=SECRET,
        METRICS_PORT=str(redis_server.port),
    )
    assert program.process.wait(30) == 1
    said = program.log.read_text()
    where = f"METRICS_HOST 127.0.0.1, METRICS_PORT {redis_server.port}"
    assert said.startswith(f"cannot listen on {where}: Address already in use")
    assert said.count("\n") == 1
