"""What nobody means well with, over a socket to a real API: it is told what is wrong, and no more.

The process has the largest MAX_BODY_BYTES that there is. How slowly a request may come, and how
large its head may be, is in api/test_protocol.py.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SECRET, Program, process_environment, start_program, wait_until

from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

MAX_BODY_BYTES = 1_048_576
#: Far more than such a body, its faults and its answer take, and far less than a gigabyte.
MEMORY_MB = 300

ORDER: dict[str, Any] = {
    "items": [{"sku": "pot-glass", "quantity": 1}],
    "paymentMethod": "card",
    "paymentToken": "tok_approve",
    "contact": {"email": "ada@shop.example", "phone": "+4915112345678"},
    "shippingAddress": {
        "name": "Ada Lovelace",
        "line1": "Musterweg 1",
        "line2": "Hinterhaus",
        "postalCode": "10115",
        "city": "Mitte",
        "region": "Brandenburg",
        "country": "DE",
    },
}
NOT_JSON = (400, "not-json", [("", "json")])
#: Every text of an order, by its value, with its place and the rule that a NUL in it breaks.
TEXTS = {
    "pot-glass": ("/items/0/sku", "no-control-characters"),
    "card": ("/paymentMethod", "one-of card, online, wallet, cash"),
    "tok_approve": ("/paymentToken", "no-control-characters"),
    "ada@shop.example": ("/contact/email", "email"),
    "+4915112345678": ("/contact/phone", r"pattern ^\+[1-9][0-9]{6,14}$"),
    "Ada Lovelace": ("/shippingAddress/name", "no-control-characters"),
    "Musterweg 1": ("/shippingAddress/line1", "no-control-characters"),
    "Hinterhaus": ("/shippingAddress/line2", "no-control-characters"),
    "10115": ("/shippingAddress/postalCode", "no-control-characters"),
    "Mitte": ("/shippingAddress/city", "no-control-characters"),
    "Brandenburg": ("/shippingAddress/region", "no-control-characters"),
    "DE": ("/shippingAddress/country", "pattern ^[A-Z]{2}$"),
}

Told = tuple[int, str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Shop:
    port: int
    program: Program

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request on a connection of its own; return the status and the body."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {
                "Authorization": f"Bearer {make_token(SECRET, 'user-1')}",
                "Content-Type": "application/json",
            }
            # A server that has answered need not read on, and the answer is there all the same.
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.request(method, path, body, sent | (headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def refuses(self, *args: Any, **kwargs: Any) -> Told:
        """Return the status, the kind of the problem, and the field and rule of each fault."""
        status, problem = self.ask(*args, **kwargs)
        assert problem["status"] == status, problem
        faults = [(fault["field"], fault["rule"]) for fault in problem.get("errors", [])]
        return status, problem["type"].rpartition(":")[2], faults

    def checkout(self, body: bytes) -> Told:
        return self.refuses("POST", "/checkout", body)

    def most_memory_mb(self) -> float:
        """Return the most that the process ever had in memory."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        (peak_kb,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(peak_kb) / 1024


@pytest.fixture
def shop(settings: Settings, resources: Resources, tmp_path: Path) -> Iterator[Shop]:
    """The API; at the end it must still sell, and have needed no more memory than it may."""
    assert resources
    port = free_port()
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings)
        | {"PORT": str(port), "JWT_SECRET": SECRET, "MAX_BODY_BYTES": str(MAX_BODY_BYTES)},
    )
    wait_until(lambda: port_is_taken(port), "the API")
    shop = Shop(port, program)
    assert shop.ask("POST", "/checkout", json.dumps(ORDER))[0] == 202
    had_mb = shop.most_memory_mb()
    yield shop
    assert shop.ask("POST", "/checkout", json.dumps(ORDER))[0] == 202
    assert shop.most_memory_mb() - had_mb < MEMORY_MB
    assert program.stop() == 0
    assert "Traceback" not in program.log.read_text()


def spoiled(old: str, new: bytes) -> bytes:
    """Return an order with one part of its text replaced."""
    text = json.dumps(ORDER).encode()
    assert text.count(old.encode()) == 1, old
    return text.replace(old.encode(), new)


def test_a_gigabyte_is_not_kept(shop: Shop) -> None:
    """Announced, and in chunks, also where nobody wants a body."""
    too_large = (413, "body-too-large", [("", f"bytes-at-most {MAX_BODY_BYTES}")])
    for path, told in (("/checkout", too_large), ("/nothing", (404, "not-found", []))):
        chunks = (b" " * 1_000_000 for _ in range(1_000))
        assert shop.refuses("POST", path, b"", {"Content-Length": "1000000000"}) == too_large
        assert shop.refuses("POST", path, chunks) == told


def test_many_parts_are_refused_and_the_first_are_named(shop: Shop) -> None:
    items = b'{"items": [' + b"{}," * 100_000 + b"{}]}"
    status, kind, faults = shop.checkout(items)
    assert (status, kind) == (422, "invalid-body")
    assert ("/items", "items-at-most 100") in faults

    good = json.dumps(ORDER["items"][0]).encode()
    many = spoiled(json.dumps(ORDER["items"]), b"[" + b",".join([good] * 20_000) + b"]")
    assert shop.checkout(many) == (422, "invalid-body", [("/items", "items-at-most 100")])

    names = b",".join(b'"%x":0' % number for number in range(100_000))
    status, kind, faults = shop.checkout(b"{" + names + b"}")
    assert (status, kind, len(faults)) == (422, "invalid-body", 100)
    assert ("/0", "no-unknown-fields") in faults


def test_depth_is_refused(shop: Shop) -> None:
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opened * 100_000 + b"0" + closed * 100_000
        assert shop.checkout(deep) == NOT_JSON
        assert shop.checkout(opened * 100_000) == NOT_JSON
        assert shop.checkout(spoiled('"pot-glass"', deep)) == NOT_JSON
        # What is not too deep to be read is still no text.
        told = shop.checkout(spoiled('"pot-glass"', opened * 50 + b"0" + closed * 50))
        assert told == (422, "invalid-body", [("/items/0/sku", "string")])


def test_numbers_that_are_none_are_refused(shop: Shop) -> None:
    place = "/items/0/quantity"
    for number, rule in {
        b"-1": "greater-than-equal 1",
        b"-" + b"9" * 400: "greater-than-equal 1",
        b"9" * 400: "less-than-equal 1000",
        b"1e400": "integer",
        b"-1e400": "integer",
        b"1e-400": "integer",
        b"0." + b"9" * 100_000: "integer",
        b"NaN": "integer",
        b"Infinity": "integer",
        b"-Infinity": "integer",
    }.items():
        told = shop.checkout(spoiled('"quantity": 1', b'"quantity": ' + number))
        assert told == (422, "invalid-body", [(place, rule)]), number[:20]
    for number in (b"9" * 5_000, b"9" * 1_000_000, b"-" + b"9" * 100_000, b"0x10", b"1e", b"+1"):
        assert shop.checkout(spoiled('"quantity": 1', b'"quantity": ' + number)) == NOT_JSON


def test_what_is_no_text_is_refused_in_every_field(shop: Shop) -> None:
    """A NUL, escaped and raw; bytes that are no UTF-8; halves of surrogate pairs."""
    for text, fault in TEXTS.items():
        told = shop.checkout(spoiled(text, text.encode() + rb"\u0000"))
        assert told == (422, "invalid-body", [fault])
        for bytes_ in (b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", rb"\ud800", rb"\udc00\ud800"):
            assert shop.checkout(spoiled(text, text.encode() + bytes_)) == NOT_JSON, (text, bytes_)


def test_a_name_that_is_there_twice_is_refused(shop: Shop) -> None:
    for place in ("/items", "/items/0/quantity", "/contact/email", "/shippingAddress/country"):
        name = f'"{place.rpartition("/")[2]}"'
        for more in (1, 20_000):
            told = shop.checkout(spoiled(name, f"{name}: 1, ".encode() * more + name.encode()))
            assert told == (400, "not-json", [(place, "once")])


def test_names_of_a_query_by_the_thousand_are_refused(shop: Shop) -> None:
    names = "&".join(f"{number:x}=" for number in range(6_000))
    for query, rule in ((names, "no-unknown-fields"), (f"{names[:15_000]}&" * 2, "once")):
        status, kind, faults = shop.refuses("GET", f"/orders?{query}")
        assert (status, kind, len(faults)) == (400, "invalid-query", 100)
        assert faults[0] == ("0", rule)


def test_headers_that_are_none_are_refused(shop: Shop) -> None:
    token = make_token(SECRET, "user-1")
    long_key = {"Idempotency-Key": "k" * 30_000}
    assert shop.refuses("POST", "/checkout", json.dumps(ORDER), long_key) == (
        400,
        "invalid-header",
        [("Idempotency-Key", "length 1..255")],
    )
    for token_ in ("x" * 30_000, "W1tb" * 7_000 + ".e30.AAAA", f"{token}.", "\xff\xfe", "."):
        told = shop.refuses("GET", "/orders", headers={"Authorization": f"Bearer {token_}"})
        assert told == (401, "unauthenticated", [("Authorization", "valid-bearer-token")])
    long_type = {"Content-Type": "application/json" + "x" * 30_000}
    assert shop.refuses("POST", "/checkout", b"{}", long_type) == (
        415,
        "unsupported-media-type",
        [("Content-Type", "application/json")],
    )


def test_many_headers_are_refused_or_harmless(shop: Shop) -> None:
    """As many as the head has room for."""
    head = f"GET /orders HTTP/1.1\r\nAuthorization: Bearer {make_token(SECRET, 'user-1')}\r\n"
    for name, status in (("X", 200), ("Authorization", 401), ("Cookie", 200)):
        with socket.create_connection(("127.0.0.1", shop.port), timeout=60) as client:
            many = f"{name}: x\r\n" * (30_000 // (len(name) + 5))
            client.sendall(f"{head}{many}Connection: close\r\n\r\n".encode())
            assert client.makefile("rb").readline().split()[1] == str(status).encode()
