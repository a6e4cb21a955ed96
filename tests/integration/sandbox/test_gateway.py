"""The payment gateway, run as it is used: a process of its own, called over HTTP."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from tests.conftest import wait_until

from orderflow.sandbox.servers import free_port

COMMAND = (sys.executable, "-m", "orderflow.sandbox.gateway")


@dataclass
class Gateway:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def charge(
        self, key: str, token: str | None = None, amount: str = "12.34", currency: str = "EUR"
    ) -> httpx.Response:
        body = {"amount": amount, "currency": currency, "method": "card", "token": token}
        return self.client.post("/charges", json=body, headers={"Idempotency-Key": key})

    def refund(self, key: str, charge_id: str, amount: str = "12.34") -> httpx.Response:
        body = {"chargeId": charge_id, "amount": amount, "currency": "EUR"}
        return self.client.post("/refunds", json=body, headers={"Idempotency-Key": key})

    def outcome(self, key: str) -> httpx.Response:
        return self.client.get(f"/charges/{quote(key, safe='')}")

    def counts(self, key: str) -> tuple[int, int]:
        """How many charges the key has, and how many of them took money."""
        listed = self.client.get("/charges", params={"key": key}).json()
        return listed["count"], listed["succeeded"]

    def set_faults(self, **faults: float) -> httpx.Response:
        return self.client.post("/faults", json=faults)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def start(folder: Path, *options: str) -> Gateway:
    port = free_port()
    log = folder / f"gateway-{port}.log"
    command = (*COMMAND, "--port", str(port), "--ledger", str(folder / "ledger.db"), *options)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def lives() -> bool:
        # That something has the port says little: a probe of a free one may meet itself.
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/livez", trust_env=False).status_code == 200
        return False

    wait_until(lambda: process.poll() is not None or lives(), "the gateway")
    if process.poll() is not None:
        pytest.fail(f"the gateway did not start: {log.read_text()}")
    client = httpx.Client(base_url=url, timeout=10)
    return Gateway(process, port, log, client)


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways that share the test's ledger; all of them end with the test."""
    with ExitStack() as ends:

        def start_one(*options: str) -> Gateway:
            gateway = start(tmp_path, *options)
            ends.enter_context(gateway.process)
            ends.callback(gateway.process.kill)
            ends.enter_context(gateway.client)
            return gateway

        yield start_one


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for the tests that need no more than a key of their own."""
    running = start(tmp_path_factory.mktemp("gateway"))
    with running.client:
        yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def key() -> str:
    return f"payment-{uuid4()}"


@pytest.mark.parametrize("token", [None, "tok_approve", "tok_visa", "tok_declined"])
def test_approves(gateway: Gateway, key: str, token: str | None) -> None:
    answer = gateway.charge(key, token)

    assert answer.status_code == 201
    charge = answer.json()
    assert re.fullmatch(r"ch_[0-9a-f]{32}", charge.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", charge.pop("createdAt"))
    assert charge == {
        "key": key,
        "amount": "12.34",
        "currency": "EUR",
        "method": "card",
        "status": "succeeded",
    }
    assert gateway.counts(key) == (1, 1)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_decline", "card_declined"),
        ("tok_decline_", "card_declined"),
        ("tok_decline_insufficient_funds", "insufficient_funds"),
        ("tok_decline_expired_card", "expired_card"),
    ],
)
def test_declines_with_the_reason_of_the_token_and_keeps_it(
    gateway: Gateway, key: str, token: str, reason: str
) -> None:
    first, again = gateway.charge(key, token), gateway.charge(key, "tok_approve")

    assert first.status_code == again.status_code == 402
    assert first.json()["status"] == "declined"
    assert first.json()["declineReason"] == reason
    assert first.json()["key"] == key
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert gateway.counts(key) == (1, 0)


def test_the_same_key_gives_the_same_answer_again(gateway: Gateway, key: str) -> None:
    first, again = gateway.charge(key, amount="12.3"), gateway.charge(key, amount="12.30")

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["amount"] == "12.30"
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert gateway.counts(key) == (1, 1)


@pytest.mark.parametrize("other", [{"amount": "12.35"}, {"currency": "USD"}])
def test_the_same_key_for_another_sum_is_a_conflict(
    gateway: Gateway, key: str, other: dict[str, str]
) -> None:
    first = gateway.charge(key)
    conflict = gateway.charge(key, **other)

    assert conflict.status_code == 409
    assert conflict.json()["error"]["field"] == "Idempotency-Key"
    assert gateway.outcome(key).json() == first.json()


async def test_a_hundred_at_once_with_one_key_charge_once(gateway: Gateway, key: str) -> None:
    body = {"amount": "12.34", "currency": "EUR", "method": "card", "token": None}
    headers = {"Idempotency-Key": key}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        answers = await asyncio.gather(
            *(client.post("/charges", json=body, headers=headers) for _ in range(100))
        )

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert gateway.counts(key) == (1, 1)


async def test_charges_that_arrive_together_are_all_kept(gateway: Gateway, key: str) -> None:
    body = {"amount": "1.00", "currency": "EUR", "method": "wallet"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        answers = await asyncio.gather(
            *(
                client.post("/charges", json=body, headers={"Idempotency-Key": f"{key}-{number}"})
                for number in range(100)
            )
        )

    for answer in answers:
        assert answer.status_code == 201
        assert gateway.outcome(answer.json()["key"]).json() == answer.json()


@pytest.mark.parametrize("key", ["a/b", "a%2Fb", "100% ?x=1&y#z", "order:7/", "~"])
def test_finds_the_outcome_of_any_key(gateway: Gateway, key: str) -> None:
    charged = gateway.charge(key)
    found = gateway.outcome(key)

    assert charged.status_code == 201
    assert found.status_code == 200
    assert found.json() == charged.json()
    assert gateway.counts(key) == (1, 1)


def test_an_unknown_key_has_no_outcome(gateway: Gateway, key: str) -> None:
    answer = gateway.outcome(key)

    assert answer.status_code == 404
    assert answer.json() == {"error": {"message": "no charge has this key", "field": "key"}}
    assert gateway.counts(key) == (0, 0)


def test_counts_every_key_and_lists_a_thousand_at_a_time(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway()
    gateway.charge("key-0000")
    gateway.charge("key-0001", "tok_decline")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.executemany(
            "INSERT INTO charges SELECT ?, id, amount, currency, method, status, decline_reason,"
            " created_at FROM charges WHERE key = 'key-0000'",
            [(f"key-{number:04}",) for number in range(2, 1_500)],
        )

    listed = gateway.client.get("/charges").json()
    rest = gateway.client.get("/charges", params={"from": "key-1000"}).json()

    assert (listed["count"], listed["succeeded"]) == (1_500, 1_499)
    assert listed["charges"][:2] == [
        {"key": "key-0000", "count": 1, "succeeded": 1},
        {"key": "key-0001", "count": 1, "succeeded": 0},
    ]
    assert len(listed["charges"]) == 1_000
    assert [row["key"] for row in rest["charges"]] == [f"key-{n:04}" for n in range(1_000, 1_500)]


def test_a_charge_outlives_a_kill(start_gateway: Callable[..., Gateway], key: str) -> None:
    gateway = start_gateway()
    charged, declined = gateway.charge(key), gateway.charge(f"{key}-2", "tok_decline_stolen_card")
    gateway.process.kill()
    gateway.process.wait()
    gateway = start_gateway()

    assert gateway.outcome(key).json() == charged.json()
    assert gateway.outcome(f"{key}-2").json() == declined.json()
    assert gateway.charge(key).headers["Idempotent-Replayed"] == "true"
    assert gateway.client.get("/charges").json()["count"] == 2


def test_a_lost_answer_is_a_dropped_connection_and_one_charge(gateway: Gateway, key: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        gateway.charge(key, "tok_lost_answer")

    found, again = gateway.outcome(key), gateway.charge(key, "tok_lost_answer")

    assert found.json()["status"] == "succeeded"
    assert again.status_code == 201
    assert again.json() == found.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert gateway.counts(key) == (1, 1)


def test_tok_503_never_charges(gateway: Gateway, key: str) -> None:
    assert [gateway.charge(key, "tok_503").status_code for _ in range(4)] == [503] * 4
    assert gateway.outcome(key).status_code == 404


def test_tok_503_twice_charges_at_the_third_call(gateway: Gateway, key: str) -> None:
    answers = [gateway.charge(key, "tok_503_twice") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [503, 503, 201, 201]
    assert answers[0].json()["error"]["message"]
    assert gateway.counts(key) == (1, 1)


def test_tok_rate_limit_charges_at_the_second_call(gateway: Gateway, key: str) -> None:
    limited, charged = gateway.charge(key, "tok_rate_limit"), gateway.charge(key, "tok_rate_limit")

    assert limited.status_code == 429
    assert int(limited.headers["Retry-After"]) > 0
    assert charged.status_code == 201
    assert gateway.counts(key) == (1, 1)


def test_tok_slow_charges_before_it_answers(gateway: Gateway, key: str) -> None:
    gateway.client.timeout = httpx.Timeout(0.5)
    try:
        with pytest.raises(httpx.ReadTimeout):
            gateway.charge(key, "tok_slow")
    finally:
        gateway.client.timeout = httpx.Timeout(10)

    assert gateway.outcome(key).json()["status"] == "succeeded"


def test_tok_slow_answers_in_the_end(gateway: Gateway, key: str) -> None:
    answer = gateway.charge(key, "tok_slow")

    assert answer.status_code == 201
    assert answer.elapsed.total_seconds() >= 2.9


def test_tok_hang_neither_answers_nor_charges(gateway: Gateway, key: str) -> None:
    gateway.client.timeout = httpx.Timeout(0.5)
    try:
        with pytest.raises(httpx.ReadTimeout):
            gateway.charge(key, "tok_hang")
    finally:
        gateway.client.timeout = httpx.Timeout(10)

    assert gateway.outcome(key).status_code == 404


def test_faults_are_set_and_shown_at_run_time(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway("--latency-ms", "1", "--fault-rate", "0.25")
    shown = gateway.client.get("/faults").json()
    assert shown == {"failNextCharges": 0, "faultRate": 0.25, "latencyMs": 1}

    changed = gateway.set_faults(failNextCharges=3, faultRate=0)
    assert changed.json() == {"failNextCharges": 3, "faultRate": 0.0, "latencyMs": 1}

    assert [gateway.charge(f"k{n}").status_code for n in range(5)] == [503, 503, 503, 201, 201]
    assert gateway.client.get("/faults").json()["failNextCharges"] == 0
    assert gateway.client.get("/charges").json()["count"] == 2

    gateway.set_faults(faultRate=1)
    assert gateway.charge("k5").status_code == 503
    assert gateway.outcome("k4").status_code == 200

    gateway.set_faults(faultRate=0, latencyMs=300)
    assert gateway.charge("k5").elapsed.total_seconds() >= 0.3


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("{", 400, None),
        ('{"faultRate": 1.5}', 422, "faultRate"),
        ('{"latencyMs": -1}', 422, "latencyMs"),
        ('{"outage": 1}', 422, "outage"),
        ("[]", 422, None),
    ],
)
def test_faults_that_are_not_right_change_nothing(
    gateway: Gateway, body: str, status: int, field: str | None
) -> None:
    answer = gateway.client.post("/faults", content=body)

    assert answer.status_code == status
    assert answer.json()["error"]["field"] == field
    assert set(gateway.client.get("/faults").json().values()) == {0}


RIGHT = {"amount": "12.34", "currency": "EUR", "method": "card", "token": None}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        *(({"amount": amount}, "amount") for amount in (12.34, 12, None, "", "-1", "1.234", "x")),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "12345678901.00"}, "amount"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "EURO"}, "currency"),
        ({"method": "cash"}, "method"),
        ({"token": 7}, "token"),
    ],
)
def test_a_body_that_is_not_right_names_the_field(
    gateway: Gateway, key: str, wrong: dict[str, Any], field: str
) -> None:
    answer = gateway.client.post("/charges", json=RIGHT | wrong, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert answer.json()["error"]["message"]
    assert gateway.outcome(key).status_code == 404


@pytest.mark.parametrize("name", ["amount", "currency", "method"])
def test_a_body_without_a_field_names_it(gateway: Gateway, key: str, name: str) -> None:
    body = {field: value for field, value in RIGHT.items() if field != name}
    answer = gateway.client.post("/charges", json=body, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == name


@pytest.mark.parametrize("body", [b"", b"{", b'{"amount": "\xff"}', b"amount=12.34"])
def test_a_body_that_is_no_json_is_refused(gateway: Gateway, key: str, body: bytes) -> None:
    answer = gateway.client.post("/charges", content=body, headers={"Idempotency-Key": key})

    assert answer.status_code == 400
    assert answer.json()["error"]["field"] is None


@pytest.mark.parametrize("value", [None, b"", b"k" * 256, "clé".encode(), b"a\tb"])
def test_a_charge_needs_a_usable_key(gateway: Gateway, value: bytes | None) -> None:
    headers = {} if value is None else {b"Idempotency-Key": value}
    answer = gateway.client.post("/charges", json=RIGHT, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "Idempotency-Key"


def test_unknown_paths_and_methods_answer_in_the_same_form(gateway: Gateway) -> None:
    for answer, status in (
        (gateway.client.get("/payments"), 404),
        (gateway.client.get("/books/payments"), 404),
        (gateway.client.put("/charges"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_the_api_key_is_asked_for(start_gateway: Callable[..., Gateway], key: str) -> None:
    gateway = start_gateway("--api-key", "s3cret")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}):
        gateway.client.headers.pop("Authorization", None)
        gateway.client.headers.update(headers)
        for answer in (
            gateway.charge(key),
            gateway.outcome(key),
            gateway.client.get("/charges"),
            gateway.client.get("/faults"),
            gateway.set_faults(faultRate=1),
        ):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["error"]["field"] == "Authorization"
    assert gateway.client.get("/livez").status_code == 200

    gateway.client.headers["Authorization"] = "Bearer s3cret"
    assert gateway.charge(key).status_code == 201
    assert "s3cret" not in gateway.log.read_text()


def test_a_ledger_that_fails_charges_nothing(
    start_gateway: Callable[..., Gateway], tmp_path: Path, key: str
) -> None:
    gateway = start_gateway()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("DROP TABLE charges")

    answer = gateway.charge(key)

    assert answer.status_code == 503
    assert answer.json() == {"error": {"message": "the ledger failed", "field": None}}
    assert gateway.client.get("/livez").json() == {"status": "ok"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_ends_with_0_and_without_a_trace_while_calls_are_open(
    start_gateway: Callable[..., Gateway], number: signal.Signals
) -> None:
    gateway = start_gateway()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        calls = [
            asyncio.create_task(
                client.post(
                    "/charges", json=RIGHT | {"token": token}, headers={"Idempotency-Key": token}
                )
            )
            for token in ("tok_hang", "tok_slow")
        ]
        await asyncio.to_thread(
            wait_until, lambda: gateway.counts("tok_slow") == (1, 1), "the charge"
        )
        status = await asyncio.to_thread(gateway.stop, number)
        lost = await asyncio.gather(*calls, return_exceptions=True)

    assert status == 0
    assert all(isinstance(error, httpx.TransportError) for error in lost)
    log = gateway.log.read_text()
    assert f"gateway on {gateway.url}" in log.splitlines()[0]
    assert "Traceback" not in log


def run_to_its_end(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, *options), check=False, capture_output=True, text=True, timeout=20
    )


def test_a_taken_port_is_told_in_one_line(gateway: Gateway, tmp_path: Path) -> None:
    ended = run_to_its_end("--port", str(gateway.port), "--ledger", str(tmp_path / "other.db"))

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot listen on 127.0.0.1:{gateway.port}: ")
    assert "already in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_ledger_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be mistaken for one " * 20)
    for wrong in (path, path / "ledger.db"):
        ended = run_to_its_end("--port", str(free_port()), "--ledger", str(wrong))

        assert ended.returncode == 1
        assert ended.stderr.startswith(f"cannot use the ledger {wrong}: ")
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "options", [("--fault-rate", "1.5"), ("--latency-ms", "-1"), ("--port", "http")]
)
def test_wrong_options_are_told_without_a_trace(options: tuple[str, str], tmp_path: Path) -> None:
    ended = run_to_its_end("--ledger", str(tmp_path / "ledger.db"), *options)

    assert ended.returncode == 2
    assert "error: " in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_gives_back_in_parts_and_never_more_than_was_charged(gateway: Gateway, key: str) -> None:
    charge_id = gateway.charge(key).json()["id"]
    part = gateway.refund(f"{key}-1", charge_id, "12.00")
    assert (part.status_code, part.json()["status"]) == (201, "succeeded")
    again = gateway.refund(f"{key}-1", charge_id, "12.00")
    assert again.json() == part.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert gateway.client.get(f"/refunds/{key}-1").json() == part.json()

    more = gateway.refund(f"{key}-2", charge_id, "0.35")
    assert (more.status_code, more.json()["error"]["field"]) == (422, "amount")
    assert gateway.refund(f"{key}-3", charge_id, "0.34").status_code == 201
    other = gateway.refund(f"{key}-3", charge_id, "0.01")
    assert (other.status_code, other.json()["error"]["field"]) == (409, "Idempotency-Key")


@pytest.mark.parametrize("token", ["tok_decline", None])
def test_gives_nothing_back_of_what_was_not_charged(
    gateway: Gateway, key: str, token: str | None
) -> None:
    charge_id = gateway.charge(key, token).json()["id"] if token else "ch_of_nobody"
    answer = gateway.refund(f"{key}-1", charge_id)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "chargeId")
    assert gateway.client.get(f"/refunds/{key}-1").status_code == 404


@pytest.mark.parametrize(
    ("token", "statuses"),
    [
        ("tok_refund_decline", [402, 402]),
        ("tok_refund_503_twice", [503, 503, 201, 201]),
        ("tok_refund_late", [202, 202, 201, 201]),
    ],
)
def test_the_token_of_a_charge_says_how_its_refunds_go(
    gateway: Gateway, key: str, token: str, statuses: list[int]
) -> None:
    charge = gateway.charge(key, token)
    assert charge.status_code == 201
    answers = [gateway.refund(f"{key}-1", charge.json()["id"]) for _ in statuses]
    assert [answer.status_code for answer in answers] == statuses


def test_a_refund_whose_answer_is_lost_is_kept(gateway: Gateway, key: str) -> None:
    charge_id = gateway.charge(key, "tok_refund_lost_answer").json()["id"]
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.refund(f"{key}-1", charge_id)
    assert gateway.refund(f"{key}-1", charge_id).status_code == 201


def test_books_outlive_the_gateway_and_tell_what_moved(
    start_gateway: Callable[..., Gateway], key: str
) -> None:
    first = start_gateway()
    charge_id = first.charge(key, "tok_refund_late").json()["id"]
    first.charge(f"{key}-declined", "tok_decline")
    first.refund(f"{key}-1", charge_id)
    assert first.stop() == 0

    second = start_gateway()
    whole = {"since": "2000-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
    charges = second.client.get("/books/charges", params=whole).json()
    assert [entry["id"] for entry in charges["entries"]] == [charge_id]
    assert charges["after"] is None
    # A pending refund has moved nothing yet; what the charge's token said is known still.
    assert second.client.get("/books/refunds", params=whole).json()["entries"] == []
    statuses = [second.refund(f"{key}-1", charge_id).status_code for _ in range(3)]
    assert statuses == [202, 202, 201]
    [entry] = second.client.get("/books/refunds", params=whole).json()["entries"]
    assert (entry["chargeId"], entry["key"]) == (charge_id, f"{key}-1")


def test_books_of_no_time_are_refused(gateway: Gateway) -> None:
    answer = gateway.client.get("/books/charges", params={"since": "today", "until": "2100"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "since")
