"""The faults of BullMQ's Python client that `orderflow.bull` works around.

Each test shows a fault of the pinned client as it is. One that fails after an upgrade says that
the fault is gone, and so may be what we do about it: the name says which.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bullmq
import pytest
from bullmq import Queue, Worker
from redis.asyncio import Redis as AsyncRedis
from tests.interop.bridge import FOLDER
from tests.interop.conftest import Keys

from orderflow.settings import Settings

BuildWorker = Callable[..., Worker]


async def until(answers: Callable[[], bool], patience_s: float = 20) -> None:
    async with asyncio.timeout(patience_s):
        while not answers():
            await asyncio.sleep(0.01)


async def returns(_job: Any, _token: str) -> dict[str, Any]:
    return {"done": True}


@pytest.fixture
async def connect(settings: Settings) -> AsyncIterator[Callable[..., AsyncRedis]]:
    """Connect as a user of the client would; all is closed at the end."""
    clients: list[AsyncRedis] = []

    def connect(**options: Any) -> AsyncRedis:
        client = AsyncRedis.from_url(settings.redis_dsn, **options)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.aclose()


@pytest.fixture
def stock_queue(connect: Callable[..., AsyncRedis], settings: Settings) -> Queue:
    client = connect(decode_responses=True)
    return Queue("stock", {"connection": client, "prefix": settings.queue_prefix})


@pytest.fixture
async def build_worker(
    connect: Callable[..., AsyncRedis], settings: Settings
) -> AsyncIterator[BuildWorker]:
    """Run the client's own worker in this process."""
    running: list[tuple[Worker, asyncio.Task[None]]] = []

    def build(
        processor: Callable[..., Awaitable[Any]], decoded: bool = True, **options: Any
    ) -> Worker:
        client = connect(decode_responses=decoded, socket_timeout=None)
        worker = Worker(
            "stock",
            processor,
            {
                "autorun": False,
                "connection": client,
                "prefix": settings.queue_prefix,
                "stalledInterval": 60_000,
            }
            | options,
        )
        running.append((worker, asyncio.create_task(worker.run())))
        return worker

    yield build
    for worker, task in running:
        await worker.close(force=True)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def stock(keys: Callable[[str], Keys]) -> Keys:
    return keys("stock")


def test_the_client_is_the_pinned_one() -> None:
    assert version("bullmq") == "3.4.4"


async def test_attempts_are_zero_unless_set(stock_queue, stock):
    job = await stock_queue.add("probe", {})
    assert json.loads(stock.hash(job.id)["opts"])["attempts"] == 0


async def test_a_worker_waits_15_s_after_a_connection_error_and_sees_stalls_after_30_s(connect):
    worker = Worker("stock", None, {"connection": connect(), "autorun": False})
    assert worker.opts["runRetryDelay"] == 15_000
    assert worker.opts["stalledInterval"] == worker.opts["lockDuration"] == 30_000
    assert worker.opts["maxStalledCount"] == 1
    assert worker.opts["drainDelay"] == 5


async def test_a_limited_worker_does_not_wait_for_its_limit(stock_queue, stock, build_worker):
    """It keeps `limitUntil` and never looks at it: see SlotWorker."""
    worker = build_worker(returns, limiter={"max": 1, "duration": 60_000}, drainDelay=0.05)
    looks = 0
    take = worker.backend.moveToActive

    async def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await take(*args)

    worker.backend.moveToActive = counted
    for _ in range(2):
        await stock_queue.add("probe", {})
    await until(lambda: worker.limitUntil > 0)
    first = looks
    await until(lambda: looks >= first + 5)
    assert stock.count("completed") == 1


async def test_a_cancelled_error_ends_the_whole_worker(stock_queue, stock, build_worker):
    """Its job stays active and the next is never started: see SlotWorker."""

    async def cancels(_job: Any, _token: str) -> None:
        raise asyncio.CancelledError

    worker = build_worker(cancels)
    await stock_queue.add("probe", {})
    await until(lambda: not worker.running and stock.count("active") == 1)
    assert stock.count("failed") == 0


async def test_without_decoded_replies_a_job_has_no_data(stock_queue, build_worker):
    """Silently: see connection.py."""
    seen: list[Any] = []

    async def keep(job: Any, _token: str) -> None:
        seen.append((job.name, job.data))

    build_worker(keep, decoded=False)
    await stock_queue.add("probe", {"n": 1})
    await until(lambda: bool(seen))
    assert seen == [(None, {})]


async def test_delays_end_on_whole_seconds(stock_queue, stock, build_worker):
    """A worker never asks for Redis' version, so it rounds each wait up: see SlotWorker."""
    build_worker(returns)
    job = await stock_queue.add("probe", {}, {"delay": 300})
    await until(lambda: stock.count("completed") == 1)
    kept = stock.hash(job.id)
    assert int(kept["processedOn"]) - int(kept["timestamp"]) >= 900


async def test_an_idle_worker_is_deaf_after_a_socket_timeout(connect):
    """redis-py's own limit is that of the blocking wait: see connection.py."""
    client = connect()
    assert client.connection_pool.make_connection().socket_timeout == 5


@pytest.mark.parametrize(
    "options",
    [
        {"jobId": "shop:7"},
        {"jobId": "7"},
        {"priority": 2_097_152},
        {"sizeLimit": 1},
        {"deduplication": {"ttl": 5}},
    ],
)
async def test_what_node_refuses_is_added(stock_queue, stock, options):
    job = await stock_queue.add("probe", {"long": "enough"}, options)
    assert stock.hash(job.id)


async def test_an_integer_id_of_zero_becomes_another_id(stock_queue):
    job = await stock_queue.add("probe", {}, {"jobId": 0})
    assert job.id == "1"


async def test_processed_by_is_never_written(stock_queue, stock, build_worker):
    build_worker(returns, name="of-python")
    job = await stock_queue.add("probe", {})
    await until(lambda: stock.count("completed") == 1)
    assert "pb" not in stock.hash(job.id)


async def test_telemetry_is_kept_under_a_name_that_node_does_not_read(stock_queue, stock):
    job = await stock_queue.add("probe", {}, {"telemetry": {"metadata": "{}"}})
    options = json.loads(stock.hash(job.id)["opts"])
    assert "tm" not in options
    assert options["telemetry"] == {"metadata": "{}"}


async def test_a_job_without_a_delay_says_so(stock_queue, stock):
    """Node does not write it."""
    job = await stock_queue.add("probe", {})
    assert json.loads(stock.hash(job.id)["opts"])["delay"] == 0


async def test_jitter_is_ignored(stock_queue, stock, build_worker):
    async def fails(_job: Any, _token: str) -> None:
        raise ValueError("as asked")

    build_worker(fails, concurrency=10)
    backoff = {"type": "fixed", "delay": 60_000, "jitter": 1}
    for _ in range(10):
        await stock_queue.add("probe", {}, {"attempts": 2, "backoff": backoff})
    await until(lambda: stock.count("delayed") == 10)
    assert {stock.hash(job_id)["delay"] for job_id in stock.ids("delayed")} == {"60000"}


async def test_a_worker_is_named_so_that_node_does_not_see_it(connect, settings):
    options = {"connection": connect(), "prefix": settings.queue_prefix, "autorun": False}
    assert Worker("stock", None, options).clientName == f"{settings.queue_prefix}:stock"


async def test_a_scheduler_that_is_not_there_raises(stock_queue):
    """Node gives undefined: see JobQueues.ensure_schedule."""
    with pytest.raises(ValueError, match="not enough values to unpack"):
        await stock_queue.getJobScheduler("nobody")


#: The wheel's own scripts: a new or a changed signature needs a look at bull/.
SCRIPTS = {
    "addDelayedJob-6",
    "addJobScheduler-11",
    "addPrioritizedJob-9",
    "addStandardJob-9",
    "moveStalledJobsToWait-9",
    "moveToActive-11",
    "moveToDelayed-11",
    "moveToFinished-14",
    "pause-7",
    "reprocessJob-9",
    "retryJob-11",
    "updateJobScheduler-12",
}


def test_the_scripts_that_we_call_have_the_keys_that_we_give() -> None:
    shipped = {file.stem for file in (Path(bullmq.__file__).parent / "commands").glob("*.lua")}
    assert shipped >= SCRIPTS


@pytest.mark.parametrize(
    "script",
    ["moveToActive-11", "moveToFinished-14", "retryJob-11", "moveToDelayed-11", "pause-7"],
)
@pytest.mark.usefixtures("node_program")
def test_the_lua_of_the_wheel_is_that_of_node(script: str) -> None:
    """Both are made from one source; where they part, a mixed fleet may part as well."""
    ours = (Path(bullmq.__file__).parent / "commands" / f"{script}.lua").read_text()
    package = FOLDER / "node_modules" / "bullmq" / "dist" / "esm" / "scripts"
    quoted = re.search(r"`(.*)`", (package / f"{script}.js").read_text(), re.DOTALL)
    assert quoted is not None
    theirs = quoted.group(1).replace("\\\\", "\\")

    def code(text: str) -> list[str]:
        bare = re.sub(r"--\[\[.*?\]\]", "", text, flags=re.DOTALL)
        lines = (re.sub(r"--.*", "", line).strip() for line in bare.splitlines())
        return [line for line in lines if line]

    assert code(ours) == code(theirs)
