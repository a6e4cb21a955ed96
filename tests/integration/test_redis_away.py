"""Redis away in each of its ways: what a checkout waits for it, and how soon workers go on."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import PATIENCE_S

from orderflow.bull.queues import JobQueues, open_queues
from orderflow.bull.worker import Delivery, run_worker
from orderflow.contract import NewJob, QueueName, payment_job
from orderflow.sandbox.servers import Server, free_port, start_redis
from orderflow.sandbox.tcp_proxy import Mode, TcpProxy
from orderflow.settings import Settings

#: Much longer than an offer takes, so that what waited for it is told from what did not.
TIMEOUT_S = 1.0
_numbers = count(1)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    server = start_redis(tmp_path / "redis", free_port())
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
async def proxy(redis: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", redis.port, delay_s=3 * TIMEOUT_S) as proxy:
        yield proxy


def settings_for(port: int) -> Settings:
    return Settings(
        _env_file=None,
        redis_url=f"redis://127.0.0.1:{port}/0",
        redis_timeout_ms=int(1_000 * TIMEOUT_S),
    )


@pytest.fixture
async def queues(proxy: TcpProxy) -> AsyncIterator[JobQueues]:
    async with open_queues(settings_for(proxy.port)) as opened:
        yield opened


def new_job() -> NewJob:
    return payment_job(f"payment-{next(_numbers)}", "order-1", "card", Decimal("5.00"))


async def offer(queues: JobQueues) -> tuple[bool, float]:
    began = time.monotonic()
    taken = await queues.offer(new_job())
    return taken, time.monotonic() - began


def freeze(redis: Server, _proxy: TcpProxy) -> None:
    redis.process.send_signal(signal.SIGSTOP)


def kill(redis: Server, _proxy: TcpProxy) -> None:
    redis.kill()


def mode(mode: Mode) -> Callable[[Server, TcpProxy], None]:
    return lambda _redis, proxy: proxy.set_mode(mode)


AWAY = {
    "frozen": freeze,
    "killed": kill,
    "cut off": mode(Mode.FREEZE),
    "black-holed": mode(Mode.BLACK_HOLE),
    "slow": mode(Mode.SLOW),
    "reset": mode(Mode.RESET),
}


@pytest.mark.parametrize("before", ["connected", "new"])
@pytest.mark.parametrize("away", AWAY)
async def test_an_offer_waits_for_one_time_out_at_most(redis, proxy, queues, away, before):
    if before == "connected":
        assert (await offer(queues))[0]
        await asyncio.sleep(0.11)  # so that the next offer looks at the depth, too
    AWAY[away](redis, proxy)
    taken, seconds = await offer(queues)
    assert not taken
    assert seconds < 1.7 * TIMEOUT_S


async def test_an_address_that_swallows_connections_costs_one_time_out():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        full = [socket.socket() for _ in range(4)]
        for client in full:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        async with open_queues(settings_for(port)) as queues:
            taken, seconds = await offer(queues)
        for client in full:
            client.close()
    assert not taken
    assert 0.9 * TIMEOUT_S < seconds < 1.7 * TIMEOUT_S


@pytest.mark.parametrize("away", ["frozen", "black-holed"])
async def test_after_the_first_failures_offers_do_not_wait_and_find_redis_again(
    redis, proxy, queues, away
):
    assert (await offer(queues))[0]
    AWAY[away](redis, proxy)
    first = await asyncio.gather(*(offer(queues) for _ in range(50)))
    assert not any(taken for taken, _ in first)
    assert max(seconds for _, seconds in first) < 1.7 * TIMEOUT_S
    # Each of them would wait for its time-out.
    async with asyncio.timeout(20 * TIMEOUT_S):
        for _ in range(200):
            assert not (await offer(queues))[0]
    redis.process.send_signal(signal.SIGCONT)
    proxy.set_mode(Mode.PASS)
    async with asyncio.timeout(PATIENCE_S):
        while not (await offer(queues))[0]:
            await asyncio.sleep(0.05)
    assert all([(await offer(queues))[0] for _ in range(20)])


async def test_one_lost_connection_leaves_nothing_to_the_reconciler_but_its_own(proxy, queues):
    assert (await offer(queues))[0]
    proxy.reset_connections()
    await offer(queues)
    assert (await offer(queues))[0]


@pytest.fixture
async def worker(proxy: TcpProxy) -> AsyncIterator[list[str]]:
    """A worker behind the proxy; the ids of the jobs it did."""
    done: list[str] = []
    stop = asyncio.Event()

    async def process(delivery: Delivery) -> dict[str, Any]:
        done.append(delivery.job_id)
        return {}

    loop = asyncio.create_task(
        run_worker(QueueName.PAYMENTS, process, 10, settings_for(proxy.port), stop)
    )
    yield done
    stop.set()
    await loop


async def until(answers: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not answers():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("away", ["frozen", "killed", "black-holed"])
async def test_a_worker_is_at_work_soon_after_redis_is(tmp_path, redis, proxy, worker, away):
    async with open_queues(settings_for(redis.port)) as direct:
        await direct.add(first := new_job())
        await until(lambda: worker == [first.job_id])
        AWAY[away](redis, proxy)
        # Longer than any wait of the worker, so that all its connections have noticed.
        await asyncio.sleep(2.5)
        if away == "killed":
            redis.process = start_redis(tmp_path / "redis", redis.port).process
        redis.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        proxy.set_mode(Mode.PASS)
        async with asyncio.timeout(PATIENCE_S):
            while not await direct.offer(second := new_job()):
                await asyncio.sleep(0.01)
        await until(lambda: second.job_id in worker)
        # It takes less than 2 s; BullMQ's own wait after a failure would be 15 s.
        assert time.monotonic() - began < 6
