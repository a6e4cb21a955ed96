"""Redis and PostgreSQL over TLS with passwords, and what is refused then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import Secret
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.conftest import (
    SECRET,
    Program,
    process_environment,
    start_program,
)
from tests.integration.api.conftest import BODY
from tests.integration.tls import make_certificates, tls_in_front
from tests.passwords import ask_for_a_password

from orderflow.bull.connection import connect_producer, connect_wait, connect_worker
from orderflow.db import open_database
from orderflow.errors import DatabaseRefused, DatabaseUnavailable, OrderflowError
from orderflow.redis_servers import RedisServers
from orderflow.resources import Resources
from orderflow.sandbox.servers import Server, free_port
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

PASSWORD = "hunter2-and-more"

CLIENTS: list[Callable[[str], Redis]] = [
    lambda url: connect_producer(RedisServers(url), 2_000, "bull"),
    lambda url: connect_worker(RedisServers(url), "bull"),
    lambda url: connect_wait(RedisServers(url), "bull"),
]


@dataclass(frozen=True)
class Secured:
    """Where the relays are, and the authority that signed them, and one that did not."""

    redis_port: int
    postgres_port: int
    database: str
    ca: Path
    other_ca: Path

    def redis(self, *, host: str = "127.0.0.1", password: str = PASSWORD, ca: Any = None) -> str:
        login = f"shop:{password}@{host}:{self.redis_port}"
        return f"rediss://{login}/0?ssl_ca_certs={ca or self.ca}"

    def postgres(self, *, host: str = "127.0.0.1", password: str = PASSWORD, ca: Any = None) -> str:
        login = f"shop:{password}@{host}:{self.postgres_port}"
        tls = f"sslmode=verify-full&sslrootcert={ca or self.ca}"
        return f"postgresql://{login}/{self.database}?{tls}"


@pytest.fixture
async def secured(
    redis_server: Server, postgres_server: Server, database_url: str, redis: Any, tmp_path: Path
) -> AsyncIterator[Secured]:
    """The servers behind TLS, with a user that needs a password."""
    redis.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    await ask_for_a_password(database_url, "shop", PASSWORD)
    ca, context = make_certificates(tmp_path / "ours", "127.0.0.1")
    other_ca, _ = make_certificates(tmp_path / "other", "127.0.0.1")
    async with (
        tls_in_front(redis_server.port, context) as redis_port,
        tls_in_front(postgres_server.port, context, postgres=True) as postgres_port,
    ):
        database = database_url.rpartition("/")[2]
        yield Secured(redis_port, postgres_port, database, ca, other_ca)
    redis.execute_command("ACL", "DELUSER", "shop")


@pytest.mark.parametrize("connect", CLIENTS, ids=["producer", "worker", "wait"])
async def test_redis_over_tls(secured: Secured, connect: Callable[[str], Redis]) -> None:
    refused = {
        "certificate signature failure": secured.redis(ca=secured.other_ca),
        "Hostname mismatch": secured.redis(host="localhost"),
        "invalid username-password": secured.redis(password="wrong-secret"),
    }
    async with connect(secured.redis()) as client:
        assert await client.ping()
    for said, url in refused.items():
        async with connect(url) as client:
            with pytest.raises(RedisError, match=said) as error:
                await client.ping()
        assert PASSWORD not in str(error.value)
        assert "wrong-secret" not in str(error.value)


async def test_postgres_over_tls(secured: Secured) -> None:
    refused: list[tuple[str, type[OrderflowError], str]] = [
        (secured.postgres(ca=secured.other_ca), DatabaseUnavailable, "certificate"),
        (secured.postgres(host="localhost"), DatabaseUnavailable, "Hostname mismatch"),
        (secured.postgres(password="wrong-secret"), DatabaseRefused, "InvalidPasswordError"),
    ]
    async with open_database(secured.postgres(), 2, 5_000) as db:
        await db.ping()
    for url, kind, said in refused:
        async with open_database(url, 2, 5_000) as db:
            with pytest.raises(kind, match=said) as error:
                await db.ping()
        assert PASSWORD not in str(error.value)
        assert "wrong-secret" not in str(error.value)


async def test_an_order_is_confirmed_over_tls_and_no_password_is_told(
    secured: Secured, settings: Settings, resources: Resources, tmp_path: Path
) -> None:
    assert resources
    over_tls = settings.model_copy(
        update={
            "redis_url": Secret(secured.redis()),
            "database_url": Secret(secured.postgres()),
        }
    )
    port = free_port()
    environment = process_environment(over_tls) | {
        "PORT": str(port),
        "JWT_SECRET": SECRET,
        "LOG_LEVEL": "debug",
    }
    programs = [
        start_program(tmp_path / f"{number}.log", *command, environment=environment)
        for number, command in enumerate(
            (
                ("orderflow.api",),
                ("orderflow.worker", "payment"),
                ("orderflow.worker", "notification"),
            )
        )
    ]
    try:
        await _order(f"http://127.0.0.1:{port}")
        assert not [program for program in programs if PASSWORD in _told(program)]
    finally:
        for program in programs:
            await asyncio.to_thread(program.stop)


async def _order(url: str) -> None:
    """Place an order and return once it is confirmed."""
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1')}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client,
        asyncio.timeout(60),
    ):
        while True:
            try:
                placed = await client.post("/checkout", json=BODY)
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
        assert placed.status_code == 202, placed.text
        path = placed.headers["Location"]
        while (await client.get(path)).json()["status"] != "confirmed":
            await asyncio.sleep(0.05)


def _told(program: Program) -> str:
    """Return what the process shows of itself: its log, and its title."""
    return program.log.read_text() + Path(f"/proc/{program.process.pid}/cmdline").read_text()
