"""The examples, as they are told to be started, at a whole shop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import SECRET, wait_until
from tests.e2e.conftest import ShopProcesses

from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token

ROOT = Path(__file__).parents[2]
CART = {"items": {"pot-glass": 1}, "payment_token": "tok_approve", "email": "ada@shop.example"}

Serve = Callable[..., httpx.Client]


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | more


@pytest.fixture
def shop(closed_shop: ShopProcesses) -> ShopProcesses:
    """A shop with as many processes as an order needs to be paid."""
    closed_shop.start("payment", "api")
    return closed_shop


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start an example that is a server, and give a client of it."""
    started: list[tuple[subprocess.Popen[bytes], httpx.Client]] = []

    def serve(*command: str, port: int, **settings: str) -> httpx.Client:
        with (tmp_path / "example.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment(**settings),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        started.append((process, client))

        def answers() -> bool:
            try:
                client.get("/")
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "example.log").read_text()
                return False
            return True

        wait_until(answers, f"the start of {command}")
        return client

    yield serve
    for process, client in started:
        client.close()
        process.terminate()
        process.wait(30)


def test_a_shop_on_fastapi(shop: ShopProcesses, serve: Serve) -> None:
    port = free_port()
    client = serve(
        *("-m", "uvicorn", "--app-dir", "examples", "fastapi_shop:app", "--port", str(port)),
        port=port,
        ORDERS_URL=shop.url,
        JWT_SECRET=SECRET,
    )
    client.headers["X-Customer"] = "ada"
    first = client.post("/carts/7/order", json=CART)
    assert first.status_code == 202, first.text
    assert first.json()["total"] == "34.00 EUR"
    assert client.post("/carts/7/order", json=CART).json() == first.json()
    with client.stream("GET", f"/orders/{first.json()['order']}/live") as live:
        told = []
        for line in live.iter_lines():
            told += [line.removeprefix("data: ")] if line.startswith("data: ") else []
            if told[-1:] == ["confirmed"]:
                break
    assert told[-1] == "confirmed"
    sold_out = client.post("/carts/8/order", json=CART | {"items": {"pot-glass": 1_000}})
    assert (sold_out.status_code, sold_out.json()["kind"]) == (409, "out-of-stock")
    stranger = client.get(f"/orders/{first.json()['order']}/live", headers={"X-Customer": "eve"})
    assert stranger.status_code == 404
    shop.stop("api")
    assert SECRET not in shop.log("api")


def test_a_view_of_django(shop: ShopProcesses, serve: Serve) -> None:
    port = free_port()
    client = serve(
        *("examples/django_view.py", "runserver", "--noreload", f"127.0.0.1:{port}"),
        port=port,
        ORDERS_URL=shop.url,
        ORDERS_TOKEN=make_token(SECRET, "ada"),
    )
    cart = {"items": {"pot-glass": 1}, "paymentToken": "tok_approve", "email": "ada@shop.example"}
    first = client.post("/carts/7/order", json=cart)
    assert first.status_code == 202, first.text
    assert client.post("/carts/7/order", json=cart).json() == first.json()
    assert shop.wait_for(first.json()["order"], "confirmed")
    wrong = client.post("/carts/8/order", json=cart | {"email": "nobody"})
    assert wrong.status_code == 422
    assert list(wrong.json()["errors"]) == ["/contact/email"]
    sold_out = client.post("/carts/9/order", json=cart | {"items": {"pot-glass": 1_000}})
    assert (sold_out.status_code, sold_out.json()) == (409, {"soldOut": "pot-glass"})


async def test_a_nightly_script(shop: ShopProcesses, sql: Any) -> None:
    declined = shop.checkout(paymentToken="tok_decline_insufficient_funds")["orderId"]
    shop.wait_for(declined, "cancelled")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "examples/cron.py", f"{datetime.now(UTC):%F}"],
            cwd=ROOT,
            env=environment(
                ORDERS_URL=shop.url, ORDERS_TOKEN=make_token(SECRET, "olga", admin=True)
            ),
            capture_output=True,
            text=True,
            check=False,
        )

    quiet = run()
    assert quiet.returncode == 0, quiet.stderr
    assert "1 cancelled, 0 stuck" in quiet.stdout
    assert f"cancelled {declined} 34.00 EUR: insufficient_funds" in quiet.stdout
    shop.stop("payment")
    stuck = shop.checkout()["orderId"]
    await sql.execute(
        "UPDATE orders SET created_at = now() - interval '2 hours' WHERE id = $1", stuck
    )
    loud = run()
    assert loud.returncode == 1, loud.stderr
    assert f"stuck     {stuck} pending since" in loud.stdout
