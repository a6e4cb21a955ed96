"""A shop with a secret in every setting, while all goes wrong: no program tells one, anywhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from redis import Redis
from tests.conftest import Program, process_environment, start_program, wait_until
from tests.e2e.conftest import body
from tests.passwords import ask_for_a_password

from orderflow.resources import Resources
from orderflow.sandbox.servers import Server, free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

#: A part of every secret, and of a customer's address.
SECRET = "hunter2"
PHONE = "+4915198765432"
PASSWORD = f"{SECRET}-of-the-servers"
SIGNING = f"{SECRET} that signs the tokens of the shop"
SECRETS = {
    "JWT_SECRET": SIGNING,
    "GATEWAY_API_KEY": f"key-{SECRET}",
    "GATEWAY_WEBHOOK_SECRET": f"webhook-{SECRET}",
    "SMTP_USERNAME": "shop",
    "SMTP_PASSWORD": f"mail-{SECRET}",
    "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}",
    "TWILIO_AUTH_TOKEN": f"sms-{SECRET}",
    "TWILIO_FROM": "Shop",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}",
}
PROGRAMS = {
    "api": ("orderflow.api",),
    "exporter": ("orderflow.exporter",),
    "payment": ("orderflow.worker", "payment"),
    "notification": ("orderflow.worker", "notification"),
    "order": ("orderflow.worker", "order"),
}
ADMIN_PATHS = (
    "/admin",
    "/admin/api/queues",
    "/admin/api/queues/notifications/jobs?state=delayed",
    "/admin/api/failures",
    "/admin/api/workers",
    "/admin/api/audit",
)


@dataclass
class Shop:
    """Every program of a shop, and what they told."""

    folder: Path
    environment: dict[str, str]
    programs: dict[str, Program] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    #: Of each program's metrics.
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PROGRAMS})

    def start(self) -> None:
        for name, command in PROGRAMS.items():
            variable = "EXPORTER_PORT" if name == "exporter" else "METRICS_PORT"
            environment = self.environment | {
                "PORT": str(self.port),
                variable: str(self.ports[name]),
            }
            log = self.folder / f"{name}.log"
            self.programs[name] = start_program(log, *command, environment=environment)
        for port in (self.port, *self.ports.values()):
            wait_until(lambda port=port: port_is_taken(port), "the start")  # type: ignore[misc]

    def ask(self, *request: Any, port: int | None = None, **more: Any) -> int:
        """Send a request, keep what it is answered, and return the status."""
        method, path = request
        url = f"http://127.0.0.1:{port or self.port}{path}"
        answer = httpx.request(method, url, timeout=60, trust_env=False, **more)
        self.told[f"{method} {path} {len(self.told)}"] = f"{answer.headers}{answer.text}"
        return answer.status_code

    def ask_all(self) -> None:
        """Ask for all that is there to be asked for, also wrongly."""
        for path in ("/docs", "/openapi.json", "/livez", "/readyz", "/nothing"):
            self.ask("GET", path)
        for port in self.ports.values():
            assert self.ask("GET", "/metrics", port=port) == 200
        admin = {"Authorization": f"Bearer {make_token(SIGNING, 'operator', admin=True)}"}
        for path in ADMIN_PATHS:
            self.ask("GET", path, headers=admin)
        assert self.ask("POST", "/webhooks/sandbox", content=SECRET.encode()) >= 400
        good = make_token(SIGNING, "user-1")
        for token in (SECRET, f"{SECRET}.e30.AAAA", good[:-4] + "AAAA", f"{good}{SECRET}"):
            assert self.ask("GET", "/orders", headers={"Authorization": f"Bearer {token}"}) == 401

    def checkout(self, **changes: Any) -> int:
        headers = {"Authorization": f"Bearer {make_token(SIGNING, 'user-1')}"}
        order = body(
            paymentToken=f"tok_{SECRET}",
            contact={"email": f"{SECRET}@shop.example", "phone": PHONE},
            **changes,
        )
        return self.ask("POST", "/checkout", headers=headers, json=order)

    def run(self, *command: str) -> None:
        """Run `orderflow COMMAND` to its end, and keep what it says."""
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("orderflow")), *command],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]} | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.told[" ".join(command)] = ended.stdout + ended.stderr

    def stop(self) -> None:
        """Stop them, having looked at what they show of themselves."""
        for name, program in self.programs.items():
            process = psutil.Process(program.process.pid)
            for one in (process, *process.children(recursive=True)):
                self.told[f"process {one.pid} of {name}"] = f"{one.name()} {one.cmdline()}"
        for program in self.programs.values():
            program.process.terminate()
        for name, program in self.programs.items():
            program.process.wait(30)
            self.told[f"log of {name}"] = program.log.read_text()

    def said_something_is_wrong(self, name: str) -> bool:
        log = self.programs[name].log.read_text()
        return '"level": "warning"' in log or '"level": "error"' in log


class RepeatingMailServer(Controller):
    """Lets nobody in, and tells those what they said."""

    def __init__(self) -> None:
        super().__init__(
            object(),
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=self._refuse,
            auth_require_tls=False,
        )

    def _refuse(self, _server: Any, _session: Any, _envelope: Any, _how: str, said: Any) -> Any:
        text = f"535 5.7.8 not with {said.password.decode()}"
        return AuthResult(success=False, handled=False, message=text)


@pytest.fixture
def mail() -> Iterator[int]:
    server = RepeatingMailServer()
    server.start()
    yield server.port
    server.stop()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[int]:
    """A gateway with another key than the shop's."""
    port = free_port()
    program = start_program(
        tmp_path / "gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(tmp_path / "ledger"), "--api-key", "another"),
    )
    wait_until(lambda: port_is_taken(port), "the gateway")
    yield port
    assert program.stop() == 0


@pytest.fixture
async def logins(
    redis: Redis, redis_server: Server, postgres_server: Server, database_url: str
) -> AsyncIterator[dict[str, str]]:
    """The addresses of the servers, with a user who needs a password."""
    await ask_for_a_password(database_url, "keeper", PASSWORD)
    redis.execute_command("ACL", "SETUSER", "keeper", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    login = f"keeper:{PASSWORD}@127.0.0.1"
    url = f"postgresql://{login}:{postgres_server.port}/{database_url.rpartition('/')[2]}"
    yield {
        "DATABASE_URL": url,
        # It is no replica, which all who read there say.
        "DATABASE_REPLICA_URL": url,
        "REDIS_URL": f"redis://{login}:{redis_server.port}/0",
    }
    redis.execute_command("ACL", "DELUSER", "keeper")


@pytest.fixture
def environment(settings: Settings, resources: Resources, logins: dict[str, str]) -> dict[str, str]:
    assert resources
    return {
        **process_environment(settings),
        **SECRETS,
        **logins,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "TWILIO_URL": f"http://127.0.0.1:{free_port()}",
        "LOG_LEVEL": "debug",
        "RECONCILE_INTERVAL_MS": "1000",
        "RECONCILE_GRACE_MS": "1",
    }


@contextmanager
def opened(folder: Path, environment: dict[str, str]) -> Iterator[Shop]:
    shop = Shop(folder, environment)
    try:
        shop.start()
        yield shop
        shop.stop()
    finally:
        for program in shop.programs.values():
            program.process.kill()
            program.process.wait()
    told = [place for place, text in shop.told.items() if SECRET in text or PHONE in text]
    assert told == [], {place: shop.told[place] for place in told}
    assert all(shop.told[f"log of {name}"] for name in shop.programs)


def kept_in(redis: Redis, prefix: str) -> dict[str, str]:
    """Return all that the queues keep, as text."""
    read = {
        "hash": redis.hgetall,
        "list": lambda key: redis.lrange(key, 0, -1),
        "set": redis.smembers,
        "stream": redis.xrange,
        "string": redis.get,
        "zset": lambda key: redis.zrange(key, 0, -1),
        "none": lambda _: "gone meanwhile",
    }
    return {key: str(read[redis.type(key)](key)) for key in redis.scan_iter(f"{prefix}:*")}


def failures_kept(database_url: str) -> str:
    """Return all that is written down of attempts that failed."""

    async def fetch() -> str:
        connection = await asyncpg.connect(database_url)
        try:
            return str(await connection.fetch("SELECT * FROM job_failures"))
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_every_secret_of_the_settings_is_in_these_tests(environment: dict[str, str]) -> None:
    secret = {
        name.upper() for name, about in Settings.model_fields.items() if "Secret" in repr(about)
    }
    # The parts of REDIS_URL cannot be set beside it, and a login at sentinels not without them:
    # tests/integration/test_sentinel.py has that.
    assert secret - {"REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD"} == {
        name for name, value in environment.items() if SECRET in value
    }


def test_a_shop_that_is_refused_by_gateway_and_mail_server_tells_no_secret(
    environment: dict[str, str],
    settings: Settings,
    redis: Redis,
    gateway: int,
    mail: int,
    tmp_path: Path,
) -> None:
    outside = {
        "GATEWAY_URL": f"http://127.0.0.1:{gateway}",
        "SMTP_PORT": str(mail),
        # Whether the machine is quick is not what this is about.
        "DATABASE_TIMEOUT_MS": "30000",
    }
    with opened(tmp_path, environment | outside) as shop:
        assert shop.checkout(paymentMethod="card") == 202
        assert shop.checkout(paymentMethod="cash") == 202
        assert shop.checkout(paymentMethod="none") == 422

        def failures() -> set[str]:
            kept = kept_in(redis, settings.queue_prefix)
            names = ("GatewayUnavailable", "SenderUnavailable")
            return {name for name in names if any(name in text for text in kept.values())}

        wait_until(lambda: len(failures()) == 2, "a failed charge and a failed mail")
        shop.ask_all()
        shop.run("doctor")
        shop.run("reconcile", "--dry-run")
        shop.told |= kept_in(redis, settings.queue_prefix)
        shop.told["failures"] = failures_kept(settings.database_dsn)
    assert "GatewayUnavailable" in shop.told["failures"]
    assert "2 unsettled" in shop.told["reconcile --dry-run"]


@pytest.mark.parametrize("away", [False, True], ids=["wrong-password", "away"])
def test_a_shop_without_its_servers_tells_no_secret(
    environment: dict[str, str], tmp_path: Path, away: bool
) -> None:
    def spoil(url: str) -> str:
        head, _, rest = url.partition(f"{PASSWORD}@127.0.0.1:")
        port, _, name = rest.partition("/")
        return f"{head}wrong-{SECRET}@127.0.0.1:{free_port() if away else port}/{name}"

    urls = ("DATABASE_URL", "DATABASE_REPLICA_URL", "REDIS_URL")
    spoiled = {name: spoil(environment[name]) for name in urls}
    with opened(tmp_path, environment | spoiled) as shop:
        shop.ask_all()
        assert shop.checkout() in {500, 503}
        shop.run("migrate")
        shop.run("reconcile")
        for name in shop.programs:
            wait_until(lambda name=name: shop.said_something_is_wrong(name), name)  # type: ignore[misc]
