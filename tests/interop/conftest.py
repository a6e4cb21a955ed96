"""Real Node BullMQ, current and last 5.x, beside our own workers as processes."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.conftest import Program, only_one, process_environment, start_program, wait_until
from tests.integration.conftest import checkout_body
from tests.interop.bridge import FOLDER, Bridge, Node

from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.resources import Resources
from orderflow.sandbox.servers import Server
from orderflow.settings import Settings

VERSIONS = ("bullmq6", "bullmq5")
StartWorker = Callable[..., Program]
PlaceOrder = Callable[..., Awaitable[Receipt]]

#: A worker that does what a job's data asks, as node/consumers.mjs does.
PROBE = """
import asyncio
import os
from collections import Counter

from bullmq import UnrecoverableError
from pydantic import Field

from orderflow.contract import Payload
from orderflow.processor import QueueWorker

worker = QueueWorker(os.environ["PROBE_QUEUE"], 1)
attempts = Counter()


class Probe(Payload):
    key: str = ""
    sleep_ms: float = Field(alias="sleepMs", default=0)
    fail_times: int = Field(alias="failTimes", default=0)
    fail: str = "as asked"
    unrecoverable: str = ""
    value: dict = {"by": "python"}


@worker.handles("probe", Probe)
async def probe(job, _resources):
    attempts[job.key] += 1
    await asyncio.sleep(job.sleep_ms / 1000)
    if job.unrecoverable:
        raise UnrecoverableError(job.unrecoverable)
    if attempts[job.key] <= job.fail_times:
        raise ValueError(job.fail)
    return job.value
"""


@pytest.fixture(scope="session")
def node_program() -> str:
    """Node, with the packages of package.json installed beside this file."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.fail("These tests need Node 18 or newer: install the packages nodejs and npm")
    major = subprocess.check_output([node, "-p", "process.versions.node.split('.')[0]"], text=True)
    if int(major) < 18:
        pytest.fail(f"These tests need Node 18 or newer, not {major.strip()}")
    with only_one("npm"):
        _install_packages(npm)
    return node


def _install_packages(npm: str) -> None:
    wanted = FOLDER / "package.json"
    installed = FOLDER / "node_modules" / ".orderflow-installed"
    if installed.exists() and installed.read_text() == wanted.read_text():
        return
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"npm install failed in {FOLDER}:\n{done.stderr}")
    installed.write_text(wanted.read_text())


@pytest.fixture(scope="session")
def bridges(node_program: str, redis_server: Server) -> Iterator[dict[str, Bridge]]:
    started = {version: Bridge(node_program, version, redis_server.url) for version in VERSIONS}
    yield started
    for bridge in started.values():
        bridge.stop()


@pytest.fixture(params=VERSIONS)
def node(
    request: pytest.FixtureRequest, bridges: dict[str, Bridge], settings: Settings
) -> Iterator[Node]:
    """Node BullMQ: each test runs with the current version and with the last 5.x."""
    yield Node(bridges[request.param], settings.queue_prefix)
    bridges[request.param].send("reset").result(30)


@pytest.fixture
def node6(bridges: dict[str, Bridge], settings: Settings) -> Iterator[Node]:
    """Node BullMQ, the current version only."""
    yield Node(bridges["bullmq6"], settings.queue_prefix)
    bridges["bullmq6"].send("reset").result(30)


@pytest.fixture
def node5(bridges: dict[str, Bridge], settings: Settings) -> Iterator[Node]:
    """Node BullMQ, the last 5.x only."""
    yield Node(bridges["bullmq5"], settings.queue_prefix)
    bridges["bullmq5"].send("reset").result(30)


@pytest.fixture
def another_node(
    node_program: str, redis_server: Server, node: Node, settings: Settings
) -> Iterator[Node]:
    """A second Node process of the same version, for a test to kill."""
    bridge = Bridge(node_program, node.version, redis_server.url)
    yield Node(bridge, settings.queue_prefix)
    with suppress(BrokenPipeError):
        bridge.stop()


@pytest.fixture
def start_worker(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartWorker]:
    """Start `python -m orderflow.worker ARGS`; the worker `probe` does what its jobs ask."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "probe.py").write_text(PROBE)
    monkeypatch.chdir(tmp_path)
    environment = {
        **process_environment(settings),
        "PROBE_QUEUE": "probe",
    }
    programs: list[Program] = []

    def start(*args: str, **changes: str) -> Program:
        log = tmp_path / f"worker-{len(programs)}.log"
        program = start_program(log, "orderflow.worker", *args, environment=environment | changes)
        programs.append(program)
        wait_until(lambda: "worker started" in log.read_text(), f"the worker {args}")
        return program

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


class Keys:
    """What BullMQ keeps in Redis about one queue, read as it lies there."""

    def __init__(self, redis: Redis, prefix: str, queue: str) -> None:
        self._redis = redis
        self._base = f"{prefix}:{queue}"

    def hash(self, job_id: str) -> dict[str, str]:
        return self._redis.hgetall(f"{self._base}:{job_id}")

    def ids(self, state: str) -> list[str]:
        key = f"{self._base}:{state}"
        if state in ("wait", "paused", "active"):
            return self._redis.lrange(key, 0, -1)
        return self._redis.zrange(key, 0, -1)

    def count(self, state: str) -> int:
        key = f"{self._base}:{state}"
        listed = state in ("wait", "paused", "active")
        return self._redis.llen(key) if listed else self._redis.zcard(key)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name in their order, each with the time Redis took it in."""
        entries = self._redis.xrange(f"{self._base}:events")
        return [
            fields | {"at_ms": int(entry_id.split("-")[0])}
            for entry_id, fields in entries
            if fields["event"] == name
        ]

    def wait_for(self, state: str, count: int, patience_s: float = 30) -> None:
        what = f"{count} jobs of {self._base} in {state}"
        wait_until(lambda: self.count(state) == count, what, patience_s)


@pytest.fixture
def keys(redis: Redis, settings: Settings) -> Callable[[str], Keys]:
    return lambda queue: Keys(redis, settings.queue_prefix, queue)


@pytest.fixture
def place(resources: Resources) -> PlaceOrder:
    """Place an order by the real checkout."""
    return partial(_place, resources)


async def _place(resources: Resources, **changes: Any) -> Receipt:
    checkout = Checkout.model_validate(checkout_body(**changes))
    return await place_order(checkout, "user-1", None, db=resources.db, queues=resources.queues)


#: The options that the Node services add every job with.
NODE_OPTIONS: dict[str, Any] = {
    "attempts": 3,
    "backoff": {"type": "exponential", "delay": 2000},
    "removeOnComplete": {"age": 3600, "count": 1000},
    "removeOnFail": {"age": 86400},
}


def payment_data(receipt: Receipt, **changes: Any) -> dict[str, Any]:
    """Return the data that a Node service sends for an order of ours."""
    return {
        "paymentId": str(receipt.payment_id),
        "orderId": str(receipt.order_id),
        "paymentData": {"method": "card", "amount": str(receipt.total)},
    } | changes


_foreign = itertools.count(time.time_ns() // 1_000_000)


def foreign_id() -> int:
    """Return an id that no test used before, of the shop's own counting."""
    return next(_foreign)


def foreign_data(amount: Any = 19.99, **changes: Any) -> dict[str, Any]:
    """Return the data of a payment that only the Node services know."""
    return {
        "paymentId": foreign_id(),
        "orderId": foreign_id(),
        "paymentData": {"method": "card", "amount": amount},
    } | changes
