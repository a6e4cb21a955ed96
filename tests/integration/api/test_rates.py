"""How often one user, or one address, may place an order; and whose address that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import SECRET, process_environment, start_program, wait_until
from tests.integration.api.conftest import BODY

from orderflow.api.problems import Kind, Problem
from orderflow.api.rates import Rates, network_of
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.setting_types import RequestRate
from orderflow.settings import Settings


@pytest.mark.parametrize("setting", ["checkout_rate_per_user", "checkout_rate_per_address"])
async def test_more_checkouts_than_the_rate_are_refused(
    serve: Any, settings: Settings, resources: Resources, setting: str
) -> None:
    assert resources
    rate = RequestRate(2, 3_600)
    async with serve(settings.model_copy(update={setting: rate})) as api:
        taken = [(await api.checkout()).status_code for _ in range(2)]
        refused = await api.checkout()
        read = await api.get("/orders")
        other = await api.checkout(user="user-2")

    assert taken == [202, 202]
    assert (refused.status_code, api.problem(refused)) == (429, "too-many-requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 1_800
    assert read.status_code == 200
    assert len(read.json()["orders"]) == 2
    assert other.status_code == (202 if setting == "checkout_rate_per_user" else 429)


async def test_nobody_is_counted_unless_that_is_set(api: Any) -> None:
    assert {(await api.checkout()).status_code for _ in range(40)} == {202}


def test_a_refused_request_costs_nothing_and_time_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("orderflow.api.rates.time.monotonic", lambda: now)
    rates = Rates(RequestRate(3, 60))
    for _ in range(3):
        rates.count("ada")
    for _ in range(10):
        with pytest.raises(Problem) as refused:
            rates.count("ada")
    assert refused.value.kind is Kind.TOO_MANY_REQUESTS
    assert refused.value.headers["Retry-After"] == "20"
    now += 20
    rates.count("ada")
    with pytest.raises(Problem):
        rates.count("ada")


def test_the_callers_seen_last_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orderflow.api.rates._MOST_CALLERS", 2)
    rates = Rates(RequestRate(1, 3_600))
    for caller in ("ada", "bob", "cleo"):
        rates.count(caller)
    rates.count("ada")
    with pytest.raises(Problem):
        rates.count("cleo")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("a socket", "a socket"),
    ],
)
def test_an_ipv6_network_is_one_caller(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize("trusted", [True, False])
def test_only_a_trusted_proxy_says_whose_request_it_is(
    settings: Settings, resources: Resources, tmp_path: Path, trusted: bool
) -> None:
    assert resources
    port = free_port()
    variables = {
        "PORT": str(port),
        "JWT_SECRET": SECRET,
        "CHECKOUT_RATE_PER_ADDRESS": "1/3600",
        "FORWARDED_ALLOW_IPS": "127.0.0.1" if trusted else "192.0.2.9",
    }
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings) | variables,
    )
    try:
        wait_until(lambda: port_is_taken(port), "the API")

        def checkout(forwarded_for: str) -> int:
            return httpx.post(
                f"http://127.0.0.1:{port}/checkout",
                headers={
                    "Authorization": f"Bearer {make_token(SECRET, 'user-1')}",
                    "X-Forwarded-For": forwarded_for,
                },
                json=BODY,
                trust_env=False,
            ).status_code

        # What a client claims stands before what its proxy adds, and is not believed.
        answers = [checkout("192.0.2.1"), checkout("192.0.2.2"), checkout("8.8.8.8, 192.0.2.1")]
        assert answers == ([202, 202, 429] if trusted else [202, 429, 429])
    finally:
        program.stop()
