"""The shop that is broken: its servers and processes, each of which can die, freeze and come back.

Whatever is started here is ended here, by its process id. A process that dies is started anew, as
systemd or Kubernetes would.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from redis.asyncio import Redis

from orderflow.db.migrate import migrate
from orderflow.products import Product, load_products
from orderflow.resources import open_resources
from orderflow.sandbox.servers import Server, free_port, own_redis, start_postgres, start_redis
from orderflow.sandbox.tcp_proxy import Mode, TcpProxy
from orderflow.settings import Settings, load_settings

#: A supervisor's pause before it starts a dead process anew.
_RESTART_AFTER_S = 0.3
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
#: The addresses of servers are always the suite's own; all other settings are the user's.
_ADDRESSES = frozenset(
    {
        *("host", "port", "database_url", "redis_url", "redis_host", "redis_port", "redis_db"),
        *("redis_username", "redis_password", "gateway_url", "gateway_api_key", "smtp_host"),
        *("smtp_port", "smtp_security", "smtp_username", "smtp_password", "sms_file"),
        *("jwt_secret", "jwt_jwks", "jwt_audience", "jwt_issuer", "web_concurrency"),
    }
)


class ChaosError(Exception):
    """The suite cannot go on; the message says why."""


@dataclass
class Program:
    """A process that is kept running, and what starts it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    comes_back: bool = True


@dataclass
class Stack:
    """All that runs. `apis` and `workers` name the programs that may be killed."""

    folder: Path
    environment: dict[str, str]
    postgres: Server
    redis: Server
    network: TcpProxy
    settings: Settings
    jwt_secret: str
    products: Sequence[Product]
    homes: dict[str, Path]
    programs: dict[str, Program] = field(default_factory=dict)

    @property
    def apis(self) -> list[str]:
        """The names of the API's processes."""
        return [name for name in self.programs if name.startswith("api-")]

    @property
    def workers(self) -> list[str]:
        """The names of the workers' processes."""
        return [name for name in self.programs if name.partition("-")[0] in _WORKERS]

    @property
    def urls(self) -> list[str]:
        """Where the API answers."""
        return [f"http://127.0.0.1:{self.programs[name].environment['PORT']}" for name in self.apis]

    @property
    def ledger(self) -> Path:
        """The gateway's book of charges, in SQLite."""
        return self.folder / "gateway.sqlite3"

    @property
    def mails(self) -> Path:
        """The folder of what the mail server took."""
        return self.folder / "mail"

    def start(
        self,
        name: str,
        module: str,
        *args: str,
        comes_back: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python -m MODULE ARGS…` under a name, with changes to its environment."""
        command = [sys.executable, "-m", module, *args]
        given = self.environment | dict(environment or {})
        process = self._open(name, command, given)
        self.programs[name] = Program(name, command, given, process, comes_back)

    def kill(self, name: str) -> None:
        """End a process as a power cut would; it comes back."""
        self.programs[name].process.kill()

    def freeze(self, name: str) -> None:
        """Stop a process in its tracks."""
        self.programs[name].process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self.programs[name].process.send_signal(signal.SIGCONT)

    async def swap(
        self, name: str, module: str, *args: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Drain a process and start another one in its place."""
        await self.end(name)
        self.start(name, module, *args, environment=environment)

    async def end(self, name: str) -> None:
        """Drain a process; it does not come back."""
        await _end(self.programs.pop(name).process)

    async def wait_for_death(self, name: str, patience_s: float) -> bool:
        """Wait until a process dies; False if it did not."""
        try:
            await asyncio.to_thread(self.programs[name].process.wait, patience_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    async def restart_redis(self) -> None:
        """Start Redis on the data that its death left."""
        port = self.redis.port
        self.redis = await asyncio.to_thread(_start_redis, self.homes["redis"], port)

    async def restart_postgres(self) -> None:
        """Start PostgreSQL on the data that its death left."""
        port = self.postgres.port
        self.postgres = await asyncio.to_thread(_start_postgres, self.homes["postgres"], port)

    async def move(self, server: str, home: Path) -> None:
        """Have a server, `redis` or `postgres`, go on with its data in another folder."""
        if server == "redis":
            await asyncio.to_thread(self.redis.stop)
        else:
            await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(_copy, self.homes[server], home)
        self.homes[server] = home
        await (self.restart_redis() if server == "redis" else self.restart_postgres())

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Redis]:
        """Give a client that does not go through the broken network."""
        client = Redis.from_url(self.redis.url, decode_responses=True)
        try:
            yield client
        finally:
            await client.aclose()

    async def keep_running(self) -> None:
        """Start anew what dies, until cancelled."""
        while True:
            dead = [
                program
                for program in self.programs.values()
                if program.comes_back and program.process.poll() is not None
            ]
            await asyncio.sleep(_RESTART_AFTER_S if dead else 0.05)
            for program in dead:
                # One that was ended meanwhile has no place to come back to.
                if self.programs.get(program.name) is program:
                    program.process = self._open(program.name, program.command, program.environment)

    async def mend(self) -> None:
        """Bring all back to how a sound shop runs; return when it answers."""
        self.network.set_mode(Mode.PASS)
        for server in (self.redis, self.postgres):
            for process in processes_of(server):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        for name in self.programs:
            self.thaw(name)
        if self.redis.process.poll() is not None:
            await self.restart_redis()
        if self.postgres.process.poll() is not None:
            await self.restart_postgres()
        async with httpx.AsyncClient(trust_env=False) as client:
            body = {"failNextCharges": 0, "faultRate": 0, "latencyMs": 0}
            await _until(
                lambda: _answers(client, f"{self.settings.gateway_url}/faults", json=body),
                "the gateway",
            )
            for name, url in zip(self.apis, self.urls, strict=True):
                await _until(lambda url=url: _answers(client, f"{url}/readyz"), name)  # type: ignore[misc]

    async def stop(self) -> None:
        """End everything that was started here."""
        for name in self.programs:
            self.thaw(name)
        await asyncio.gather(*(_end(program.process) for program in self.programs.values()))
        for server in (self.redis, self.postgres):
            for process in processes_of(server):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            await asyncio.to_thread(server.stop)

    def _open(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        folder = self.folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=folder,  # no `.env` and no `workers` of the user's folder
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


_WORKERS = ("payment", "notification", "order")
#: What is sold; more of it than any run orders.
PRODUCTS = (
    Product.model_validate(
        {"sku": "counted", "name": "Counted", "price": "12.50", "currency": "EUR", "stock": 10**8}
    ),
    Product.model_validate(
        {"sku": "uncounted", "name": "Uncounted", "price": "7.25", "currency": "EUR", "stock": None}
    ),
)


@asynccontextmanager
async def open_stack(folder: Path) -> AsyncIterator[Stack]:
    """Start everything in `folder`, and end it on leaving. Raises ServerError or ChaosError."""
    async with AsyncExitStack() as exits:
        homes = {name: folder / name for name in ("postgres", "redis")}
        postgres = await asyncio.to_thread(_start_postgres, homes["postgres"], free_port())
        redis = await asyncio.to_thread(_start_redis, homes["redis"], free_port())
        network = await exits.enter_async_context(TcpProxy("127.0.0.1", redis.port))
        secret = secrets.token_urlsafe(48)
        environment = _environment(postgres, network.port, secret)
        settings = load_settings(
            database_url=postgres.url, redis_url=redis.url, gateway_url=environment["GATEWAY_URL"]
        )
        stack = Stack(
            folder, environment, postgres, redis, network, settings, secret, PRODUCTS, homes
        )
        exits.push_async_callback(stack.stop)
        await migrate(postgres.url)
        async with open_resources(settings) as resources:
            await load_products(PRODUCTS, resources.db)
        _start_programs(stack)
        keeper = asyncio.create_task(stack.keep_running(), name="keeper")
        exits.callback(keeper.cancel)
        await stack.mend()
        yield stack


def _environment(postgres: Server, redis_port: int, secret: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _ADDRESSES}
    return kept | {
        "DATABASE_URL": postgres.url,
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "GATEWAY_URL": f"http://127.0.0.1:{free_port()}",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(free_port()),
        "JWT_SECRET": secret,
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "warning"),
        "LOG_FORMAT": "console",
    }


def _start_programs(stack: Stack) -> None:
    environment = stack.environment
    gateway_port = environment["GATEWAY_URL"].rpartition(":")[2]
    stack.start(
        "gateway",
        "orderflow.sandbox.gateway",
        *("--port", gateway_port, "--ledger", str(stack.ledger)),
    )
    stack.start(
        "mail",
        "orderflow.sandbox.mail",
        *("--port", environment["SMTP_PORT"], "--folder", str(stack.mails)),
    )
    for number in (1, 2):
        stack.start(f"api-{number}", "orderflow.api", environment={"PORT": str(free_port())})
        start_worker(stack, f"payment-{number}")
    start_worker(stack, "notification-1")
    start_worker(stack, "order-1")


def start_worker(stack: Stack, name: str) -> None:
    """Start a sound worker under a name such as `payment-1`."""
    stack.start(name, "orderflow.worker", name.partition("-")[0], "--concurrency", "20")


def processes_of(server: Server) -> list[psutil.Process]:
    """Return the processes of a server: PostgreSQL has many."""
    try:
        main = psutil.Process(server.process.pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _start_postgres(home: Path, port: int) -> Server:
    durable = {"fsync": "on", "synchronous_commit": "on", "max_connections": "200"}
    return start_postgres(home, port, durable)


def _start_redis(home: Path, port: int) -> Server:
    return start_redis(home, port, executable=own_redis())


def _copy(home: Path, to: Path) -> None:
    """Make `to` the same as `home`, owners and all."""
    if to.exists():
        shutil.rmtree(to)
    subprocess.run(["cp", "--archive", str(home), str(to)], check=True)


async def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        await asyncio.to_thread(process.wait, _STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


async def _answers(client: httpx.AsyncClient, url: str, json: object = None) -> bool:
    try:
        answer = await (client.get(url) if json is None else client.post(url, json=json))
    except httpx.HTTPError:
        return False
    return answer.is_success


async def _until(answers: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not await answers():  # type: ignore[misc]
        if time.monotonic() > deadline:
            raise ChaosError(f"{what} did not answer within {_START_TIMEOUT_S:.0f} s")
        await asyncio.sleep(0.05)
