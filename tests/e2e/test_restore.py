"""A backup is restored, so that PostgreSQL or Redis is older than the rest of the world."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from tests.conftest import start_program, wait_until

from orderflow import books
from orderflow.operations.audit import Actor
from orderflow.operations.orphans import find_orphans, remove_orphans
from orderflow.resources import Resources, open_resources
from orderflow.sandbox.servers import Server, free_port, port_is_taken, start_redis
from orderflow.settings import Settings

LEDGER = "ledger.sqlite3"


@pytest.fixture
def postgres_tool(postgres_server: Server) -> Callable[..., None]:
    """Run one of PostgreSQL's own programs, of the server's version."""

    def run(name: str, *args: str) -> None:
        program = Path(postgres_server.process.args[0]).with_name(name)
        done = subprocess.run([program, *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


class OwnRedis:
    """A Redis that this test alone stops, copies and puts back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self.server = start_redis(self.folder, self.port)

    def copy_to(self, backup: Path) -> None:
        self.server.stop()
        shutil.copytree(self.folder, backup)
        self.start()

    def restore(self, backup: Path) -> None:
        self.server.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(backup, self.folder)
        self.start()


@pytest.fixture
def own_redis(closed_shop, tmp_path: Path) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path / "own-redis")
    closed_shop.environment["REDIS_URL"] = redis.server.url
    yield redis
    for name in list(closed_shop.programs):
        closed_shop.kill(name)
    redis.server.stop()


@pytest.fixture
def own_gateway(closed_shop, tmp_path: Path) -> Iterator[None]:
    """A sandbox gateway that takes this test's money alone, and its books."""
    port = free_port()
    program = start_program(
        tmp_path / "gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(tmp_path / LEDGER)),
    )
    wait_until(lambda: port_is_taken(port), "the gateway")
    closed_shop.environment["GATEWAY_URL"] = f"http://127.0.0.1:{port}"
    yield
    program.stop()


def charged(folder: Path) -> dict[str, str]:
    """Return the id of every charge that took money, by its payment."""
    with closing(sqlite3.connect(folder / LEDGER)) as db:
        return dict(db.execute("SELECT key, id FROM charges WHERE status = 'succeeded'"))


@pytest.fixture
def own_settings(
    closed_shop,
    own_redis,
    own_gateway,  # noqa: ARG001 - says where it is
    settings: Settings,
) -> Settings:
    return Settings(
        _env_file=None,
        database_url=settings.database_dsn,
        redis_url=own_redis.server.url,
        redis_timeout_ms=2_000,
        queue_prefix=settings.queue_prefix,
        gateway_url=closed_shop.environment["GATEWAY_URL"],
    )


def place(shop, count: int) -> list[dict[str, str]]:
    return [shop.checkout() for _ in range(count)]


def payments(*receipts: dict[str, str]) -> set[str]:
    return {receipt["paymentId"] for receipt in receipts}


async def compare(resources: Resources, monkeypatch) -> Counter[str]:
    monkeypatch.setattr("orderflow.books.sides.GRACE", timedelta())
    now = datetime.now(UTC)
    found = await books.compare_books(
        now - timedelta(hours=1),
        now + timedelta(seconds=1),
        db=resources.db,
        gateway=resources.gateway,
    )
    return Counter(difference.kind.value for difference in found.differences)


@pytest.mark.parametrize("by_the_book", [True, False])
async def test_postgres_is_older_and_every_charge_is_accounted_for(
    closed_shop,
    own_redis,
    own_settings,
    postgres_tool,
    sql,
    tmp_path,
    monkeypatch,
    by_the_book,
):
    shop, url = closed_shop, own_settings.database_dsn
    shop.start("api", "payment")
    done = place(shop, 2)
    for receipt in done:
        shop.wait_for(receipt["orderId"], "confirmed")
    shop.stop("payment")
    under_way = place(shop, 2)
    postgres_tool("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url)

    shop.start("payment")
    lost = place(shop, 2)
    for receipt in under_way + lost:
        shop.wait_for(receipt["orderId"], "confirmed")
    shop.stop("payment")
    lost_uncharged = place(shop, 2)
    shop.stop("api")
    options = ("--clean", "--if-exists", "--single-transaction")
    postgres_tool("pg_restore", *options, f"--dbname={url}", str(tmp_path / "dump"))

    if by_the_book:
        async with open_resources(own_settings) as resources:
            stores = {"db": resources.db, "queues": resources.queues}
            orphans = await find_orphans(**stores)
            assert {orphan.payment_id for orphan in orphans} == payments(*lost_uncharged)
            await remove_orphans(orphans, Actor("ada", "cli"), **stores)
            found = await compare(resources, monkeypatch)
        assert found == {"unwritten": 2, "unknown": 2}
    shop.start("api", "payment", "order")
    for receipt in done + under_way:
        shop.wait_for(receipt["orderId"], "confirmed")
    new = shop.checkout()
    shop.wait_for(new["orderId"], "confirmed")
    with Redis.from_url(own_redis.server.url) as redis:
        waiting = f"{own_settings.queue_prefix}:payment-processing:prioritized"
        wait_until(lambda: redis.zcard(waiting) == 0, "the end of all jobs")
    shop.stop("api", "payment", "order")

    taken = charged(tmp_path)
    adopted = [] if by_the_book else lost_uncharged
    assert set(taken) == payments(*done, *under_way, *lost, new, *adopted)
    async with open_resources(own_settings) as resources:
        await compare(resources, monkeypatch)
        told = {known.transaction_id for known in await books.open_differences(db=resources.db)}
    assert told == {taken[payment] for payment in payments(*lost)}
    rows = await sql.fetch("SELECT transaction_id FROM payments WHERE status = 'completed'")
    assert {row["transaction_id"] for row in rows} == set(taken.values()) - told
    external = await sql.fetch("SELECT id::text FROM orders WHERE source = 'external'")
    assert {row["id"] for row in external} == {receipt["orderId"] for receipt in adopted}


def test_redis_is_older_and_nothing_is_done_twice(
    closed_shop, own_redis, own_settings, mail_server, tmp_path
):
    shop = closed_shop
    shop.start("api")
    receipts = place(shop, 3)
    own_redis.copy_to(tmp_path / "backup")
    shop.start("payment", "notification")
    for receipt in receipts:
        shop.wait_for(receipt["orderId"], "confirmed")
        wait_until(lambda: mail_server.mails(receipt["orderId"]), "its mail")  # noqa: B023
    shop.stop("payment", "notification")
    taken = charged(tmp_path)

    own_redis.restore(tmp_path / "backup")
    with Redis.from_url(own_redis.server.url, decode_responses=True) as redis:
        queue = f"{own_settings.queue_prefix}:payment-processing"
        come_back = redis.zrange(f"{queue}:prioritized", 0, -1)
        assert len(come_back) == 3
        shop.start("payment", "notification", "order")
        new = shop.checkout()
        shop.wait_for(new["orderId"], "confirmed")
        for job_id in come_back:
            ended = redis.zscore
            wait_until(lambda: ended(f"{queue}:completed", job_id), "its end")  # noqa: B023
    wait_until(lambda: mail_server.mails(new["orderId"]), "the mail of the new one")
    assert {key: charged(tmp_path)[key] for key in taken} == taken
    assert set(charged(tmp_path)) - set(taken) == payments(new)
    for receipt in [*receipts, new]:
        assert len(mail_server.mails(receipt["orderId"])) == 1
