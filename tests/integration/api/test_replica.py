"""Orders read at a replica: never older than at the primary, whatever becomes of the replica."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from tests.conftest import (
    CATALOGUE,
    SECRET,
    only_one,
    process_environment,
    start_program,
    wait_until,
)
from tests.integration.conftest import checkout_body
from tests.integration.life import charge
from tests.integration.test_database import frozen
from tests.integration.working import until
from tests.otlp import collecting
from tests.scraping import Scrape

from orderflow.api.app import create_app
from orderflow.checkout import Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.db import Reads
from orderflow.db.migrate import migrate
from orderflow.db.replica import ReplicaReads
from orderflow.doctor import Finding, Severity, examine
from orderflow.errors import DatabaseUnavailable
from orderflow.metrics import READS, of_replica
from orderflow.orders import OrderStatus
from orderflow.products import load_products, read_catalogue
from orderflow.resources import Resources, open_reads, open_resources
from orderflow.sandbox.servers import (
    Server,
    free_port,
    port_is_taken,
    start_postgres,
    start_standby,
)
from orderflow.sandbox.tokens import make_token
from orderflow.setting_types import PostgresUrl
from orderflow.settings import Settings


@dataclass
class Pair:
    """A primary, and a standby that follows it."""

    primary: Server
    standby: Server
    folder: Path

    def start_standby_again(self) -> None:
        self.standby = start_postgres(self.folder, self.standby.port)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="orderflow-replica-") as name:
        folder = Path(name)
        with only_one("postgres"):
            primary = start_postgres(folder / "primary", free_port(), {"fsync": "off"})
        asyncio.run(migrate(primary.url))
        standby = start_standby(folder / "standby", free_port(), primary)
        pair = Pair(primary, standby, folder / "standby")
        yield pair
        pair.standby.stop()
        primary.stop()


@pytest.fixture
def replicated(settings: Settings, pair: Pair) -> Settings:
    return settings.model_copy(
        update={
            "database_url": PostgresUrl(pair.primary.url),
            "database_replica_url": PostgresUrl(pair.standby.url),
            "database_replica_lag_ms": 10_000,
        }
    )


@pytest.fixture
async def shop(replicated: Settings) -> AsyncIterator[Resources]:
    async with open_resources(replicated) as opened:
        await load_products(read_catalogue(CATALOGUE), opened.db)
        yield opened


@pytest.fixture
def place() -> Callable[[Resources], Awaitable[Receipt]]:
    async def place(shop: Resources) -> Receipt:
        asked = Checkout.model_validate(checkout_body())
        return await place_order(asked, "user-1", None, db=shop.db, queues=shop.queues)

    return place


@asynccontextmanager
async def at(server: Server) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def late(standby: Server) -> AsyncIterator[None]:
    """Have each commit replayed a while after it came."""
    async with at(standby) as sql:
        await sql.execute("ALTER SYSTEM SET recovery_min_apply_delay = '50ms'")
        await sql.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            await sql.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
            await sql.execute("SELECT pg_reload_conf()")


def shown() -> dict[str, float]:
    """Return what the metrics say of the replica, added up over who reads in this process."""
    return {m.name.rpartition("replica_")[2]: m.samples[0].value for m in of_replica() if m.samples}


async def until_used_by(readers: int) -> None:
    async def are_so() -> bool:
        return shown().get("used") == readers

    await until(are_so)


@asynccontextmanager
async def reading(settings: Settings, shop: Resources) -> AsyncIterator[ReplicaReads]:
    async with open_reads(settings, shop.db) as reads:
        assert isinstance(reads, ReplicaReads)
        await until_used_by(1)
        yield reads


async def status(reads: Reads, receipt: Receipt) -> str:
    row = await reads.fetchrow("find_order", receipt.order_id)
    assert row is not None
    return str(row["status"])


async def findings(settings: Settings, check: str = "postgres-replica") -> list[Finding]:
    return [finding for finding in await examine(settings) if finding.check == check]


async def test_what_was_answered_is_seen_at_once_by_another_process(serve, shop, replicated, pair):
    async with serve(replicated) as one, serve(replicated) as other, late(pair.standby):
        await until_used_by(2)
        before = dict(READS)
        for number in range(5):
            user = f"user-{number}"
            receipt = (await one.checkout(user=user)).json()
            path = f"/orders/{receipt['orderId']}"
            assert (await other.get(path, user=user)).json()["status"] == "pending"
            await charge(shop, receipt_of(receipt))
            assert (await other.get(path, user=user)).json()["status"] == "confirmed"
            listed = (await one.get("/orders", user=user)).json()["orders"]
            assert [order["status"] for order in listed] == ["confirmed"]
            cancelled = await one.client.post(f"{path}/cancel", headers=one.bearer(user))
            assert cancelled.json()["status"] == "cancelled"
            story = await other.get(f"/admin/api{path}/story", admin=True)
            assert story.json()["status"] == "cancelled"
    assert READS["primary",] == before["primary",]
    assert READS["replica",] > before["replica",] + 5 * 5


def receipt_of(answer: dict[str, str]) -> Receipt:
    return Receipt(
        UUID(answer["orderId"]),
        UUID(answer["paymentId"]),
        OrderStatus(answer["status"]),
        Decimal(answer["total"]),
        answer["currency"],
    )


async def test_one_that_is_far_behind_is_not_waited_for(place, shop, replicated, pair, capsys):
    hurried = replicated.model_copy(update={"database_replica_lag_ms": 100})
    async with reading(hurried, shop) as reads, at(pair.standby) as standby:
        await standby.execute("SELECT pg_wal_replay_pause()")
        try:
            receipt = await place(shop)
            # The first that meets it waits for as long as may be, and those after it do not.
            assert await status(reads, receipt) == "pending"
            assert reads.replica.trouble == "the replica is too far behind"
            assert shown()["lag_seconds"] >= 0.1
            before = dict(READS)
            assert [await status(reads, receipt) for _ in range(10)] == ["pending"] * 10
            assert READS["primary",] == before["primary",] + 10
            [late] = await findings(hurried)
            assert late.severity is Severity.WARNING
            assert "DATABASE_REPLICA_LAG_MS is 100" in late.message
        finally:
            await standby.execute("SELECT pg_wal_replay_resume()")

        async def is_read_again() -> bool:
            assert await status(reads, receipt) == "pending"
            return READS["replica",] > before["replica",]

        await until(is_read_again)
    said = capsys.readouterr().out
    assert said.count("reads go to the primary") >= 1
    assert said.count("reads go to the replica") >= 2


async def test_one_that_is_away_or_hangs_costs_one_time_out(place, shop, replicated, pair):
    receipt = await place(shop)
    async with reading(replicated, shop) as reads:
        pair.standby.stop()
        assert await status(reads, receipt) == "pending"
        assert reads.replica.trouble.startswith("PostgreSQL does not answer")
        [away] = await findings(replicated)
        assert (away.severity, away.fix) == (
            Severity.WARNING,
            "Start the replica, or set DATABASE_REPLICA_URL",
        )
        pair.start_standby_again()
        await until_used_by(1)
        with frozen(pair.standby):
            assert await status(reads, receipt) == "pending"
            assert "TimeoutError" in reads.replica.trouble
            before = dict(READS)
            assert [await status(reads, receipt) for _ in range(10)] == ["pending"] * 10
            assert READS["primary",] == before["primary",] + 10
        await until_used_by(1)
        [well] = await findings(replicated)
        assert well.severity is Severity.OK


@pytest.mark.parametrize(
    ("leads_to", "said"),
    [
        ("the primary", "a server that is no replica"),
        ("another server's", "a replica of another server"),
        ("another database", "the database template1, and DATABASE_URL to postgres"),
    ],
)
async def test_what_is_no_replica_of_ours_is_named_and_not_read(
    leads_to, said, place, shop, settings, pair, resources, capsys
):
    assert resources
    url = {
        "the primary": pair.primary.url,
        "another server's": pair.standby.url,
        "another database": pair.standby.url.removesuffix("postgres") + "template1",
    }[leads_to]
    ours = settings if leads_to == "another server's" else shop.settings
    wrong = ours.model_copy(update={"database_replica_url": PostgresUrl(url)})
    async with open_resources(wrong) as opened, open_reads(wrong, opened.db) as reads:
        receipt = await place(opened)

        async def is_found_out() -> bool:
            return reads.replica is not None and said in str(reads.replica.trouble)

        await until(is_found_out)
        assert await status(reads, receipt) == "pending"
    fix = "name a standby of DATABASE_URL's server"
    assert f"DATABASE_REPLICA_URL leads to {said}: {fix}" in capsys.readouterr().out
    [finding] = await findings(wrong)
    assert (finding.severity, finding.message) == (
        Severity.ERROR,
        f"DATABASE_REPLICA_URL leads to {said}",
    )


def test_the_exporter_tells_of_it(replicated, tmp_path):
    port = free_port()
    changes = {
        "EXPORTER_PORT": str(port),
        "DATABASE_REPLICA_URL": replicated.database_replica_dsn,
        "DATABASE_REPLICA_LAG_MS": "10000",
    }
    environment = process_environment(replicated) | changes
    exporter = start_program(tmp_path / "log", "orderflow.exporter", environment=environment)
    wait_until(lambda: port_is_taken(port), "the exporter")
    wait_until(lambda: Scrape(port).sum("orderflow_postgres_replica_used") == 1, "the replica")
    scrape = Scrape(port)
    assert scrape.sum("orderflow_postgres_up") == 1
    assert 0 <= scrape.sum("orderflow_postgres_replica_lag_seconds") <= 10
    assert exporter.stop() == 0


async def test_a_trace_shows_what_is_read_there(place, shop, replicated, tmp_path):
    receipt = await place(shop)
    port = free_port()
    with collecting() as collector:
        changes = {
            "PORT": str(port),
            "JWT_SECRET": SECRET,
            "DATABASE_REPLICA_URL": replicated.database_replica_dsn,
            "DATABASE_REPLICA_LAG_MS": "10000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        environment = process_environment(replicated) | changes
        api = start_program(tmp_path / "log", "orderflow.api", environment=environment)
        headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1')}"}
        url = f"http://127.0.0.1:{port}/orders/{receipt.order_id}"

        async def is_shown() -> bool:
            assert (await client.get(url, headers=headers)).is_success
            traces: dict[str, set[str]] = {}
            for seen in list(collector.spans):
                traces.setdefault(seen.trace_id, set()).add(seen.name)
            return any({"await wal_position", "find_order"} <= names for names in traces.values())

        wait_until(lambda: port_is_taken(port), "the API")
        async with httpx.AsyncClient(trust_env=False) as client:
            await until(is_shown)
        assert api.stop() == 0


async def test_orders_cannot_be_written_at_it(replicated, pair):
    lost = replicated.model_copy(update={"database_url": PostgresUrl(pair.standby.url)})
    [finding] = await findings(lost, "postgres-primary")
    assert finding.severity is Severity.ERROR
    assert finding.fix.endswith("with ?target_session_attrs=read-write")
    async with open_resources(lost) as shop:
        with pytest.raises(DatabaseUnavailable, match="ReadOnlySQLTransactionError"):
            await load_products(read_catalogue(CATALOGUE), shop.db)


async def test_the_page_shows_it(shop, replicated):
    assert shop
    app = create_app(replicated)
    cookies = {"orderflow_admin": make_token(SECRET, "ada", admin=True)}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://shop.test", cookies=cookies
        ) as client,
    ):
        await until_used_by(1)
        assert "replica</span> 0.0" in (await client.get("/admin")).text


async def test_without_one_the_primary_is_read(settings, resources):
    async with open_reads(settings, resources.db) as reads:
        assert reads is resources.db
    assert await findings(settings) == []
