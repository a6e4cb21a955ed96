"""Real servers for every test: started once on free loopback ports, a database each test."""

from __future__ import annotations

import asyncio
import email
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from redis import Redis
from tests.databases import Databases

from orderflow.db.migrate import migrate
from orderflow.products import load_products, read_catalogue
from orderflow.resources import Resources, open_resources
from orderflow.sandbox import up
from orderflow.sandbox.servers import Server, free_port, port_is_taken, start_postgres, start_redis
from orderflow.settings import Settings

SECRET = "a secret for tests that is long enough"
CATALOGUE = Path(up.__file__).with_name("catalogue.csv")

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Heed Ctrl-C, so that the programs that tests interrupt heed it as well.

    A shell that runs the tests in its background has them ignore it, and a program inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Machine:
    """What the tests that run at the same time share: who measures has it alone."""

    def __init__(self, floor: TextIO, door: TextIO) -> None:
        self._floor = floor
        # Whoever waits for the whole floor holds the door, or others would come in for ever.
        self._door = door

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be one of many."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._floor, fcntl.LOCK_UN)

    def _enter(self) -> None:
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._floor, fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Do nothing for a while, which keeps nobody from being alone, and then be one of many."""
        fcntl.flock(self._floor, fcntl.LOCK_UN)
        try:
            yield
        finally:
            self._enter()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one, and then one of many again."""
        # Let go first: two that both wait for the other to leave would wait for ever.
        fcntl.flock(self._floor, fcntl.LOCK_UN)
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._floor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._floor, fcntl.LOCK_SH)
            fcntl.flock(self._door, fcntl.LOCK_UN)


@contextmanager
def only_one(what: str) -> Iterator[None]:
    """Do what cannot be done twice at the same time on one machine."""
    with (Path(tempfile.gettempdir()) / f"orderflow-tests-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Each of pytest-xdist's processes has a folder of its own in the one that they share.
        folder = folder.parent
    with (folder / "floor.lock").open("w") as floor, (folder / "door.lock").open("w") as door:
        yield Machine(floor, door)


@pytest.fixture(autouse=True)
def _share_the_machine(machine: Machine) -> Iterator[None]:
    with machine.shared():
        yield


@pytest.fixture
def alone(machine: Machine) -> Callable[[], AbstractContextManager[None]]:
    """Return what a test is inside of while milliseconds count: no other test runs then."""
    return machine.alone


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_redis(tmp_path_factory.mktemp("redis"), free_port())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    # Not pytest's own folder: it is closed to other users whenever another session starts, and
    # as root PostgreSQL runs as a user of its own.
    with tempfile.TemporaryDirectory(prefix="orderflow-postgres-") as folder:
        # As root it makes a user, which two at once cannot.
        with only_one("postgres"):
            # A crash would cost a test nothing, so durability is not paid for.
            server = start_postgres(
                Path(folder), free_port(), {"fsync": "off", "max_connections": "300"}
            )
        asyncio.run(migrate(server.url))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def databases(postgres_server: Server) -> Databases:
    return Databases(postgres_server.url)


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A migrated, empty database."""
    async with databases.one() as url:
        yield url


@dataclass(frozen=True)
class Program:
    """A process of orderflow that a test started."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


def start_program(log: Path, *args: str, environment: dict[str, str] | None = None) -> Program:
    """Start `python -m ARGS…` with only `environment`, as a fresh shell would have it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            env=kept | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Program(process, log)


def events(program: Program, event: str) -> list[dict[str, Any]]:
    """Return the lines of a program's log that tell of an event."""
    lines = [line for line in program.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in map(json.loads, lines) if line["event"] == event]


def process_environment(settings: Settings) -> dict[str, str]:
    """Return what a process needs to work beside a test, with deaths found out quickly."""
    sentinels = ",".join(map(str, settings.redis_sentinels))
    return {
        "REDIS_SENTINELS": sentinels,
        "REDIS_SENTINEL_MASTER": settings.redis_sentinel_master or "",
        "REDIS_CLUSTER": str(settings.redis_cluster),
        "REDIS_URL": settings.redis_dsn,
        "DATABASE_URL": settings.database_dsn,
        "QUEUE_PREFIX": settings.queue_prefix,
        "GATEWAY_URL": settings.gateway_url,
        "SMTP_PORT": str(settings.smtp_port),
        "WORKER_LOCK_MS": "2000",
        "WORKER_STALLED_INTERVAL_MS": "500",
    }


def wait_until(answers: Callable[[], bool], what: str, patience_s: float = 30) -> None:
    """Return when `answers()` is true; fail the test when it does not become so."""
    deadline = time.monotonic() + patience_s
    while not answers():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class SandboxGatewayServer:
    """The sandbox gateway as a process, and its books."""

    url: str

    def charge(self, key: object) -> dict[str, Any] | None:
        """Return what the ledger holds under this key, or None."""
        answer = httpx.get(f"{self.url}/charges/{quote(str(key), safe='')}", trust_env=False)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        entry: dict[str, Any] = answer.raise_for_status().json()
        return entry

    def refunds(self) -> list[dict[str, Any]]:
        """Return what its books have of money that was given back."""
        found: list[dict[str, Any]] = []
        params = {"since": "2000-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
        while True:
            answer = httpx.get(f"{self.url}/books/refunds", params=params, trust_env=False)
            page = answer.raise_for_status().json()
            found += page["entries"]
            if page["after"] is None:
                return found
            params["after"] = page["after"]


@dataclass(frozen=True)
class MailServer:
    """The mail catcher as a process, and what it caught."""

    port: int
    folder: Path

    def mails(self, order_id: object) -> list[EmailMessage]:
        """Return the mails whose subject names the order."""
        mails = [
            email.message_from_bytes(file.read_bytes(), policy=default)
            for file in sorted(self.folder.glob("*.eml"))
        ]
        return [mail for mail in mails if str(order_id) in str(mail["Subject"])]


@pytest.fixture(scope="session")
def gateway_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxGatewayServer]:
    folder = tmp_path_factory.mktemp("gateway")
    port = free_port()
    program = start_program(
        folder / "gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(folder / "ledger.sqlite3")),
    )
    wait_until(lambda: port_is_taken(port), "the sandbox gateway")
    yield SandboxGatewayServer(f"http://127.0.0.1:{port}")
    assert program.stop() == 0


@pytest.fixture(scope="session")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    folder = tmp_path_factory.mktemp("mail")
    port = free_port()
    program = start_program(
        folder / "mail.log",
        "orderflow.sandbox.mail",
        *("--port", str(port), "--folder", str(folder / "kept")),
    )
    wait_until(lambda: port_is_taken(port), "the mail catcher")
    yield MailServer(port, folder / "kept")
    assert program.stop() == 0


@pytest.fixture
def settings(
    redis_server: Server,
    database_url: str,
    gateway_server: SandboxGatewayServer,
    mail_server: MailServer,
    tmp_path: Path,
) -> Settings:
    """Settings for one test: its own database, and queues under its own prefix."""
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_server.url,
        redis_timeout_ms=2_000,
        queue_prefix=f"test-{next(_numbers)}",
        jwt_secret=SECRET,
        sms_file=tmp_path / "sms.jsonl",
        gateway_url=gateway_server.url,
        smtp_port=mail_server.port,
        reconcile_grace_ms=1,
    )


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    """A client of the test's own, to look and to tamper."""
    client = Redis.from_url(settings.redis_dsn, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    """Everything a use case needs, with the small catalogue loaded."""
    async with open_resources(settings) as opened:
        await load_products(read_catalogue(CATALOGUE), opened.db)
        yield opened


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the test's own, to look and to tamper."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
