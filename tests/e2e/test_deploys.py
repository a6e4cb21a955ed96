"""A shop is replaced process by process, and migrated, while customers buy."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from tests.conftest import CATALOGUE, SECRET, events, start_program, wait_until
from tests.e2e.conftest import ShopProcesses, body

from orderflow.db import migrate
from orderflow.products import load_products, read_catalogue
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token

WORKERS = ("payment", "notification", "order")
#: Longer than from the balancer's look to the end of the request that it sends then.
GRACE_MS = 3_000
#: What uvicorn says of each process once it serves.
STARTED = "Application startup complete."


#: The load is light: what is shown does not hang on how fast this machine is.
_PAUSE_S = 0.02
#: Of this there is always one more.
GIFT = [{"sku": "gift-card", "quantity": 1}]


class Balancer:
    """Sends each order to the next API that is ready when it looks, and tries none again."""

    def __init__(self, *urls: str) -> None:
        token = make_token(SECRET, "user-1", admin=False)
        self._clients = {
            url: httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=20,
                trust_env=False,
            )
            for url in urls
        }
        self.faults: list[str] = []
        self.orders: list[str] = []
        self.seen: set[str] = set()
        self._end = threading.Event()
        self._buyer = threading.Thread(target=self._buy)

    @contextmanager
    def busy(self) -> Iterator[Balancer]:
        """Buy without a pause while the caller does what it does."""
        self._buyer.start()
        try:
            yield self
        finally:
            self._end.set()
            self._buyer.join()
            for client in self._clients.values():
                client.close()

    def sells(self, more: int) -> None:
        """Return when that many more orders were taken."""
        goal = len(self.orders) + more
        wait_until(lambda: len(self.orders) >= goal or bool(self.faults), "more orders")

    def _buy(self) -> None:
        for url, client in itertools.cycle(self._clients.items()):
            if self._end.wait(_PAUSE_S):
                return
            if not _is_ready(client):
                continue
            self.seen.add(url)
            try:
                answer = client.post("/checkout", json=body(items=GIFT))
            except httpx.HTTPError as error:
                self.faults.append(f"{url}: {error!r}")
                continue
            if answer.status_code == httpx.codes.ACCEPTED:
                self.orders.append(answer.json()["orderId"])
            else:
                self.faults.append(f"{url}: {answer.status_code} {answer.text}")


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


async def end_well(
    shop: ShopProcesses, balancer: Balancer, sql: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Nobody was turned away, every order ends, and no job had to be taken from a dead worker."""
    assert balancer.faults == []
    async with asyncio.timeout(60):
        while await sql.fetchval("SELECT count(*) FROM orders WHERE notified_at IS NULL"):
            await asyncio.sleep(0.05)
    confirmed = await sql.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'")
    assert confirmed == len(balancer.orders)
    for name in WORKERS:
        assert "job stalled" not in shop.log(name)


async def test_every_process_is_replaced_under_load(closed_shop, sql, redis, settings):
    shop = closed_shop
    shop.start(*WORKERS, "api", SHUTDOWN_GRACE_MS=str(GRACE_MS))
    old = shop.programs["api"]
    old_url = shop.url
    shop.port = free_port()
    with Balancer(old_url, shop.url).busy() as balancer:
        await asyncio.to_thread(balancer.sells, 10)
        shop.start("api", PORT=str(shop.port), SHUTDOWN_GRACE_MS=str(GRACE_MS))
        wait_until(lambda: shop.url in balancer.seen, "the new API")
        assert await asyncio.to_thread(old.stop) == 0, old.log.read_text()
        await asyncio.to_thread(balancer.sells, 10)
        for name in WORKERS:
            leaving = shop.programs[name]
            shop.start(name)
            assert await asyncio.to_thread(leaving.stop) == 0, leaving.log.read_text()
            await asyncio.to_thread(balancer.sells, 5)
    await end_well(shop, balancer, sql)
    for queue in ("payment-processing", "notifications"):
        for key in redis.scan_iter(match=f"{settings.queue_prefix}:{queue}:*-*"):
            if redis.type(key) == "hash":
                assert redis.hget(key, "stc") is None


async def test_an_api_tells_its_balancer_before_it_stops(closed_shop):
    shop = closed_shop
    shop.start("api", SHUTDOWN_GRACE_MS="60000")
    process = shop.programs["api"].process
    process.terminate()
    with shop.client() as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "stopping", "the word")
        assert client.get("/readyz").status_code == 503
        # Nor does it keep connections that would be closed while a request is on its way.
        assert client.get("/livez").headers["Connection"] == "close"
        assert client.post("/checkout", json=body()).status_code == 202
    # Who asks twice does not want to wait.
    process.terminate()
    assert await asyncio.to_thread(process.wait, 30) == 0


async def test_an_api_of_many_processes_serves_on_while_its_balancer_looks(closed_shop):
    shop = closed_shop
    shop.start("api", SHUTDOWN_GRACE_MS="3000", WEB_CONCURRENCY="2")
    # One that serves is enough for a start; the other may still be on its way.
    wait_until(lambda: len(events(shop.programs["api"], STARTED)) == 2, "both processes")
    process = shop.programs["api"].process
    process.terminate()
    with shop.client() as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "stopping", "the word")
        assert client.post("/checkout", json=body()).status_code == 202
    assert await asyncio.to_thread(process.wait, 30) == 0
    left = events(shop.programs["api"], "leaving service")
    assert [line["grace_ms"] for line in left] == [3_000, 3_000]


async def test_a_charge_that_outlasts_the_drain_is_left_and_taken_once(
    shop, gateway_server, redis, settings
):
    shop.stop("payment")
    shop.start("payment", DRAIN_TIMEOUT_MS="300")
    receipt = shop.checkout(paymentToken="tok_slow")
    wait_until(lambda: gateway_server.charge(receipt["paymentId"]) is not None, "the charge")
    charge = gateway_server.charge(receipt["paymentId"])
    shop.stop("payment")
    assert redis.llen(f"{settings.queue_prefix}:payment-processing:active") == 1
    assert shop.order(receipt["orderId"])["payment"]["status"] == "processing"

    shop.start("payment")
    shop.wait_for(receipt["orderId"], "confirmed")
    assert gateway_server.charge(receipt["paymentId"]) == charge


def _make_schema_of_the_version_before(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    connection.execute(text("DROP SCHEMA public CASCADE"))
    connection.execute(text("CREATE SCHEMA public"))
    connection.commit()
    newest = ScriptDirectory.from_config(config).get_revision("head")
    command.upgrade(config, newest.down_revision)


async def test_the_schema_is_migrated_under_load(
    closed_shop, database_url, resources, tmp_path, sql
):
    shop = closed_shop
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(database_url),
        poolclass=NullPool,
    )
    async with engine.connect() as connection:
        await connection.run_sync(_make_schema_of_the_version_before)
    await engine.dispose()
    await load_products(read_catalogue(CATALOGUE), resources.db)
    shop.start(*WORKERS, "api")
    with Balancer(shop.url).busy() as balancer:
        await asyncio.to_thread(balancer.sells, 10)
        step = start_program(
            tmp_path / "migrate.log", "orderflow.cli", "migrate", environment=shop.environment
        )
        assert await asyncio.to_thread(step.process.wait, 30) == 0, step.log.read_text()
        await asyncio.to_thread(balancer.sells, 5)
    await end_well(shop, balancer, sql)
