"""The shop that is broken: its servers and processes, each of which can die, freeze and come back.

Whatever is started here is ended here, by its process id. A process that dies is started anew, as
systemd or Kubernetes would.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from redis.asyncio import Redis

from orderflow.products import Product
from orderflow.sandbox.chaos.homes import (
    copy_home,
    processes_of,
    start_postgres_in,
    start_redis_in,
)
from orderflow.sandbox.servers import Server
from orderflow.sandbox.tcp_proxy import Mode, TcpProxy
from orderflow.settings import Settings

#: A supervisor's pause before it starts a dead process anew.
_RESTART_AFTER_S = 0.3
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


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
    #: Where another PostgreSQL may be, which the programs know of, too.
    spare_postgres_port: int
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
        self.redis = await asyncio.to_thread(start_redis_in, self.homes["redis"], port)

    async def restart_postgres(self) -> None:
        """Start PostgreSQL on the data that its death left."""
        port = self.postgres.port
        self.postgres = await asyncio.to_thread(start_postgres_in, self.homes["postgres"], port)

    def take_over(self, standby: Server, home: Path) -> None:
        """Have the standby at the spare port, with its data at `home`, for the PostgreSQL."""
        self.spare_postgres_port = self.postgres.port
        self.postgres, self.homes["postgres"] = standby, home

    async def move(self, server: str, home: Path) -> None:
        """Have a server, `redis` or `postgres`, go on with its data in another folder."""
        if server == "redis":
            await asyncio.to_thread(self.redis.stop)
        else:
            await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(copy_home, self.homes[server], home)
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
