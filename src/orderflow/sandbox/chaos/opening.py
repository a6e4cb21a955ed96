"""Opening the shop that is broken: servers, gateway, mail, two processes of the API, workers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from orderflow.db.migrate import migrate
from orderflow.products import Product, load_products
from orderflow.resources import open_resources
from orderflow.sandbox.chaos.homes import start_postgres_in, start_redis_in
from orderflow.sandbox.chaos.stack import Stack
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tcp_proxy import TcpProxy
from orderflow.settings import Settings, load_settings

#: Of the suite's Redis there is one, which the settings may not take for several.
_ONE_REDIS: Mapping[str, Any] = {
    "redis_sentinels": (),
    "redis_sentinel_master": "",
    "redis_sentinel_username": "",
    "redis_sentinel_password": "",
    "redis_cluster": False,
    "queue_shards": 1,
}
#: The addresses of servers are always the suite's own; all other settings are the user's.
_ADDRESSES = frozenset(
    {
        *("host", "port", "database_url", "redis_url", "redis_host", "redis_port", "redis_db"),
        *_ONE_REDIS,
        *(
            "redis_username",
            "redis_password",
            "payment_gateway",
            "gateway_url",
            "gateway_api_key",
            "smtp_host",
        ),
        *("smtp_port", "smtp_security", "smtp_username", "smtp_password", "smtp_ca_file"),
        *("database_pooler", "database_replica_url"),
        *("mail_file", "mail_rate", "sms_file", "sms_rate"),
        *("twilio_account_sid", "twilio_auth_token", "twilio_from", "twilio_url"),
        # Every customer is to be told, or nobody could say who was not.
        *(name for name in Settings.model_fields if name.startswith("notify_")),
        *("jwt_secret", "jwt_jwks", "jwt_audience", "jwt_issuer", "web_concurrency"),
    }
)
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
        postgres = await asyncio.to_thread(start_postgres_in, homes["postgres"], free_port())
        exits.callback(postgres.stop)
        redis = await asyncio.to_thread(start_redis_in, homes["redis"], free_port())
        exits.callback(redis.stop)
        network = await exits.enter_async_context(TcpProxy("127.0.0.1", redis.port))
        secret = secrets.token_urlsafe(48)
        spare_port = free_port()
        environment = _environment((postgres.port, spare_port), network.port, secret)
        settings = load_settings(
            database_url=postgres.url,
            redis_url=redis.url,
            gateway_url=environment["GATEWAY_URL"],
            **_ONE_REDIS,
        )
        stack = Stack(
            folder,
            environment,
            postgres,
            redis,
            network,
            settings,
            secret,
            PRODUCTS,
            homes,
            spare_port,
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


def _environment(postgres_ports: Sequence[int], redis_port: int, secret: str) -> dict[str, str]:
    hosts = ",".join(f"127.0.0.1:{port}" for port in postgres_ports)
    users = {name: value for name, value in dotenv_values(".env").items() if value} | os.environ
    kept = {name: value for name, value in users.items() if name.lower() not in _ADDRESSES}
    return kept | {
        "DATABASE_URL": f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "GATEWAY_URL": f"http://127.0.0.1:{free_port()}",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(free_port()),
        "JWT_SECRET": secret,
        "LOG_LEVEL": users.get("LOG_LEVEL", "warning"),
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
