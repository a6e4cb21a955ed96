"""`orderflow up`: everything on one machine, as processes of their own.

Redis and PostgreSQL come first, then the sandbox gateway and the mail catcher, then what the
Procfile names. Everything started here is stopped here, in the reverse order, by process id.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import typer

from orderflow.db.migrate import migrate
from orderflow.errors import OrderflowError
from orderflow.products import has_products, load_products, read_catalogue
from orderflow.resources import open_resources
from orderflow.sandbox.first_order import OrderStuck, Shop, follow_first_order
from orderflow.sandbox.programs import ScaleError, read_programs, scale_programs
from orderflow.sandbox.prometheus import own_prometheus, start_prometheus
from orderflow.sandbox.servers import (
    ServerError,
    free_port,
    port_is_taken,
    start_postgres,
    start_redis,
)
from orderflow.sandbox.stack import Stack, UpError
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings, load_settings

_PACKAGE = Path(__file__).parents[1]
_CATALOGUE = Path(__file__).with_name("catalogue.csv")
_TOKEN_TTL_S = 30 * 24 * 3_600


def run_stack(data: Path, *, once: bool, monitoring: bool = False, scale: str = "") -> int:
    """Run everything with its data in `data`; return the exit status.

    With `once` it ends after the first order: 0 if that was paid and mailed, 1 if not. With
    `monitoring` a Prometheus watches it, which the machine must have. `scale` says how many
    processes programs have, as payment=5,notification=3; 2 if it cannot be done.
    """
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        # Read first: what is wrong is told at once, and not after all else runs.
        programs = scale_programs(read_programs(_procfile()), scale)
        with ExitStack() as stack:
            if monitoring:
                own_prometheus()
            shop = _start(Stack(data, stack), programs, monitoring=monitoring)
            _say(f"Everything runs after {time.monotonic() - started:.1f} s. The first order:\n")
            asyncio.run(follow_first_order(shop.shop, _say))
            if not once:
                _say(shop.welcome())
                shop.stack.watch()
    except KeyboardInterrupt:
        _say("Stopped.")
    except ScaleError as error:
        _say(f"orderflow up: {error}")
        return 2
    except (UpError, ServerError, OrderStuck, OrderflowError) as error:
        _say(f"orderflow up: {error}")
        return 1
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    typer.echo(text)


@dataclass(frozen=True)
class RunningShop:
    """A stack that runs, and what a person needs to use it."""

    stack: Stack
    shop: Shop
    admin_token: str
    addresses: dict[str, str]

    def welcome(self) -> str:
        """Return the addresses, tokens, and a request to paste."""
        lines = ["", *(f"  {name:<10} {address}" for name, address in self.addresses.items())]
        lines += ["", "  A token, good for 30 days:", "", f"  {self.shop.token}", ""]
        lines += ["  One of an admin, to sign in to /admin with:", "", f"  {self.admin_token}", ""]
        lines += ["  Place an order:", "", self._curl(), "", "  Ctrl-C ends it all."]
        return "\n".join(lines)

    def _curl(self) -> str:
        return (
            f"curl -i {self.shop.api_url}/checkout"
            f" -H 'Authorization: Bearer {self.shop.token}'"
            " -H 'Content-Type: application/json'"
            f" -d {shlex.quote(json.dumps(self.shop.checkout_body()))}"
        )


def _start(stack: Stack, programs: Mapping[str, str], *, monitoring: bool) -> RunningShop:
    stack.data.mkdir(parents=True, exist_ok=True)
    environment = stack.environment
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment.setdefault("LOG_FORMAT", "console")
    environment.setdefault("DEVELOPMENT", "true")
    environment.setdefault("WEBHOOKS_ALLOW_PRIVATE", "true")
    given = load_settings()
    _check_senders(given)
    _choose_ports(environment, given)
    _start_servers(stack, given)
    _set_secret(stack, given)
    _start_sandbox(stack)
    settings = _settings_of(environment)
    sku = asyncio.run(_prepare_database(settings))
    metrics = _metrics_addresses(programs, settings)
    for name, command in programs.items():
        stack.start(name, command, METRICS_PORT=metrics[name].rpartition(":")[2])
    stack.stop_on_exit(*programs)
    api_url = f"http://{settings.host}:{settings.port}"
    exporter_url = f"http://{settings.exporter_host}:{settings.exporter_port}/metrics"
    _say(f"Started {', '.join(stack.processes)}; logs are in {stack.data / 'logs'}")
    stack.wait_for("the API", lambda: _answers(f"{api_url}/readyz"))
    stack.wait_for("the exporter", lambda: _answers(exporter_url))
    watcher = _watched(stack, metrics) if monitoring else {}
    mail_folder = stack.data / "mail"
    secret = environment["JWT_SECRET"]
    token = make_token(secret, "ada", ttl_s=_TOKEN_TTL_S)
    return RunningShop(
        stack=stack,
        shop=Shop(api_url, environment["GATEWAY_URL"], mail_folder, token, sku),
        admin_token=make_token(secret, "olga", admin=True, ttl_s=_TOKEN_TTL_S),
        addresses={
            **({"shop": f"{api_url}/demo"} if settings.development else {}),
            "API": f"{api_url}/docs",
            "operators": f"{api_url}/admin",
            "metrics": exporter_url,
            **watcher,
            "gateway": f"{settings.gateway_url}/charges",
            "mails": str(mail_folder),
            "logs": str(stack.data / "logs"),
        },
    )


def _metrics_addresses(programs: Iterable[str], settings: Settings) -> dict[str, str]:
    """Return where each program serves its metrics."""
    given = {name: f"{settings.metrics_host}:{free_port()}" for name in programs}
    return given | {"exporter": f"{settings.exporter_host}:{settings.exporter_port}"}


def _watched(stack: Stack, metrics: Mapping[str, str]) -> dict[str, str]:
    """Start Prometheus, and return its address for the welcome."""
    prometheus = start_prometheus(stack.data / "prometheus", free_port(), metrics)
    stack.exits.callback(prometheus.stop)
    return {"Prometheus": f"{prometheus.url}/alerts"}


def _choose_ports(environment: dict[str, str], given: Settings) -> None:
    """Take other ports where the usual ones are taken; a port that was asked for must be free."""
    usual = {
        "PORT": given.port,
        "EXPORTER_PORT": given.exporter_port,
        "SMTP_PORT": given.smtp_port,
        "GATEWAY_PORT": 8010,
    }
    asked_for = given.model_fields_set
    for variable, port in usual.items():
        if not port_is_taken(port):
            environment[variable] = str(port)
        elif variable.lower() in asked_for:
            raise UpError(f"{variable}: port {port} is taken; choose another, or end what uses it")
        else:
            environment[variable] = str(free_port())
            _say(f"Port {port} is taken, so {variable} is {environment[variable]}")


def _check_senders(given: Settings) -> None:
    """Refuse what would send real SMS, or keep mails from the catcher."""
    if given.twilio_account_sid is not None:
        raise UpError("TWILIO_ACCOUNT_SID: no SMS leaves this machine; SMS_FILE has them instead")
    if given.mail_file is not None:
        raise UpError("MAIL_FILE: mails go to the catcher here; leave it out")


_NAMES_REDIS = {"redis_url", "redis_host", "redis_sentinels", "redis_cluster"}


def _start_servers(stack: Stack, given: Settings) -> None:
    if _NAMES_REDIS & given.model_fields_set:
        _say("Using the Redis that the settings name")
    else:
        redis = start_redis(stack.data / "redis", free_port())
        stack.exits.callback(redis.stop)
        stack.environment["REDIS_URL"] = redis.url
        _say(f"Started Redis       {redis.url}")
    if "database_url" in given.model_fields_set:
        _say("Using the PostgreSQL that DATABASE_URL names")
    else:
        postgres = start_postgres(stack.data / "postgres", free_port())
        stack.exits.callback(postgres.stop)
        stack.environment["DATABASE_URL"] = postgres.url
        _say(f"Started PostgreSQL  {postgres.url}")


def _set_secret(stack: Stack, given: Settings) -> None:
    """Sign with the secret of the settings, or with one that is made once and kept."""
    stack.environment.pop("JWT_JWKS", None)
    if given.jwt_secret is not None:
        stack.environment["JWT_SECRET"] = given.jwt_secret.get_secret_value()
        return
    file = stack.data / "jwt-secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(48))
    stack.environment["JWT_SECRET"] = file.read_text()


def _start_sandbox(stack: Stack) -> None:
    """Start the gateway and the mail catcher: no money and no mail ever leaves this machine."""
    environment = stack.environment
    port = environment.pop("GATEWAY_PORT")
    environment |= {
        "PAYMENT_GATEWAY": "sandbox",
        "GATEWAY_URL": f"http://127.0.0.1:{port}",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_SECURITY": "none",
    }
    for variable in ("GATEWAY_API_KEY", "SMTP_USERNAME", "SMTP_PASSWORD"):
        environment[variable] = ""
    ledger = shlex.quote(str(stack.data / "gateway.sqlite3"))
    folder = shlex.quote(str(stack.data / "mail"))
    stack.start("gateway", f"python -m orderflow.sandbox.gateway --port {port} --ledger {ledger}")
    smtp_port = environment["SMTP_PORT"]
    stack.start("mail", f"python -m orderflow.sandbox.mail --port {smtp_port} --folder {folder}")
    stack.stop_on_exit("gateway", "mail")
    stack.wait_for("the gateway", lambda: port_is_taken(int(port)))
    stack.wait_for("the mail catcher", lambda: port_is_taken(int(smtp_port)))


def _settings_of(environment: dict[str, str]) -> Settings:
    """Return the settings that the processes of the stack will read."""
    fields = Settings.model_fields
    return load_settings(
        **{
            name.lower(): value
            for name, value in environment.items()
            if name.lower() in fields and value
        }
    )


async def _prepare_database(settings: Settings) -> str:
    """Migrate, load the catalogue into an empty shop, and return a sku that can be bought."""
    before, after = await migrate(settings.database_dsn)
    _say(f"Schema              {after}" + ("" if before == after else " (migrated)"))
    async with open_resources(settings) as resources:
        if not await has_products(resources.db):
            count = await load_products(read_catalogue(_CATALOGUE), resources.db)
            _say(f"Catalogue           {count} products")
        product = await resources.db.fetchrow("any_product")
    if product is None:
        raise UpError("the shop has no product that is in stock")
    return str(product["sku"])


def _procfile() -> Path:
    """Return the Procfile of the current folder, or the one that comes with orderflow."""
    candidates = (Path.cwd() / "Procfile", _PACKAGE / "Procfile", _PACKAGE.parents[1] / "Procfile")
    return next(file for file in candidates if file.is_file())


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
