"""What one connection can make the API hold or wait for, on the wire of a real process."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Program, process_environment, start_program, wait_until

from orderflow.api.protocol import MAX_HEAD_BYTES
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

SECRET = "a secret for tests that is long enough"
CONNECTIONS = 20
TIMEOUT_S = 1
HEAD = b"POST /checkout HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Shop:
    port: int
    program: Program

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)

    def answer_to(self, *parts: bytes) -> tuple[int, str]:
        """Send the parts and read to the end; return status and kind of problem of the answer."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
            return told(everything_from(client))

    def is_alive(self) -> bool:
        with self.connect() as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            return everything_from(client).startswith(b"HTTP/1.1 200 ")


def everything_from(client: socket.socket) -> bytes:
    """Read until the server closes; a server that does not is a failure by time-out."""
    answer = b""
    try:
        while data := client.recv(65_536):
            answer += data
    except ConnectionResetError:
        pass
    return answer


def refuses(client: socket.socket) -> bool:
    """Send a byte; say whether nobody takes it any more."""
    try:
        client.sendall(b"a")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def told(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head.lower(), answer
    problem: dict[str, Any] = json.loads(body)
    status = int(head.split()[1])
    assert problem["status"] == status
    return status, problem["type"].rpartition(":")[2]


@pytest.fixture
def shop(tmp_path: Path, settings: Settings) -> Iterator[Shop]:
    port = free_port()
    limits = {
        "REQUEST_TIMEOUT_S": str(TIMEOUT_S),
        "KEEP_ALIVE_S": str(3 * TIMEOUT_S),
        "MAX_CONNECTIONS": str(CONNECTIONS),
    }
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings)
        | limits
        | {"PORT": str(port), "JWT_SECRET": SECRET},
    )
    wait_until(lambda: port_is_taken(port), "the API")
    yield Shop(port, program)
    assert program.stop() == 0
    assert "Traceback" not in (tmp_path / "api.log").read_text()


def authorized() -> bytes:
    return HEAD + f"Authorization: Bearer {make_token(SECRET, 'user-1')}\r\n".encode()


def test_what_comes_too_slowly_is_told_so(shop: Shop) -> None:
    """A head, a body and a chunked body that stop half-way, and a connection that says nothing."""
    late = (408, "request-timeout")
    assert shop.answer_to(HEAD) == late
    assert shop.answer_to(authorized() + b"Content-Length: 9\r\n\r\n{") == late
    assert shop.answer_to(authorized() + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n") == late
    with shop.connect() as silent:
        assert everything_from(silent) == b""
    with shop.connect() as empty_lines:
        empty_lines.sendall(b"\r\n\r\n")
        everything_from(empty_lines)
    assert shop.is_alive()


def test_who_goes_on_sending_can_read_why_it_was_refused(shop: Shop) -> None:
    """No reset takes the answer away, and the connection ends nevertheless."""
    with shop.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nX: " + b"a" * (MAX_HEAD_BYTES + 1))
        client.recv(1, socket.MSG_PEEK)
        for _ in range(10):
            client.sendall(b"a" * 10_000)
            time.sleep(0.01)
        answer = b""
        while data := client.recv(65_536):
            answer += data
        assert told(answer) == (431, "head-too-large")
        wait_until(lambda: refuses(client), "the end of the connection")
    assert shop.is_alive()


def test_a_byte_at_a_time_wins_no_time(shop: Shop) -> None:
    with shop.connect() as client:
        began = time.monotonic()
        client.sendall(HEAD + b"X: ")
        client.settimeout(0.1)
        answer = b""
        while not answer:
            assert time.monotonic() - began < 15 * TIMEOUT_S
            client.sendall(b"a")
            try:
                answer = client.recv(65_536)
            except TimeoutError:
                continue
        assert told(answer) == (408, "request-timeout")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: shop\r\n" + b"X: a\r\n" * 8_000 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES,
    ],
    ids=["url", "header", "headers", "without-end"],
)
def test_a_large_head_is_refused(shop: Shop, head: bytes) -> None:
    assert shop.answer_to(head) == (431, "head-too-large")
    assert shop.is_alive()


def test_a_body_is_not_counted_as_head(shop: Shop) -> None:
    body = b" " * (MAX_HEAD_BYTES + 10_000)
    length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    assert shop.answer_to(authorized() + length + body) == (400, "not-json")


def test_trailers_are_bounded_too(shop: Shop) -> None:
    head = authorized() + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    with shop.connect() as client:
        client.sendall(head)
        assert client.recv(65_536).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"0\r\nX: " + b"a" * MAX_HEAD_BYTES)
        assert told(everything_from(client)) == (431, "head-too-large")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: sh\x00op\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["nonsense", "nul", "not-ascii", "smuggled", "two-lengths", "connect", "tls"],
)
def test_what_is_no_http_is_refused(shop: Shop, request_: bytes) -> None:
    assert shop.answer_to(request_) == (400, "malformed-request")
    assert shop.is_alive()


def test_a_gigabyte_is_not_waited_for(shop: Shop) -> None:
    """Announced it is refused before it comes, and as chunks while it comes."""
    refused = (413, "body-too-large")
    assert shop.answer_to(authorized() + b"Content-Length: 1000000000\r\n\r\n") == refused
    with shop.connect() as client:
        client.sendall(authorized() + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            client.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        assert told(everything_from(client)) == refused
    assert shop.is_alive()


def test_a_connection_too_many_is_to_come_again(shop: Shop) -> None:
    with ExitStack() as open_ones:
        for _ in range(CONNECTIONS):
            open_ones.enter_context(shop.connect())
        with shop.connect() as one_more:
            answer = everything_from(one_more)
    assert told(answer) == (503, "too-many-connections")
    assert b"Retry-After: 1\r\n" in answer
    wait_until(shop.is_alive, "the API without the others")


def test_requests_on_one_connection_are_all_answered(shop: Shop) -> None:
    """Also those that were sent before the first was answered, and after a pause."""
    get = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"
    with shop.connect() as client:
        client.sendall(get * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200 ") < 3:
            answers += client.recv(65_536)
        client.sendall(get)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_is_kept_for_longer_than_one_that_asks_nothing(shop: Shop) -> None:
    get = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"
    with shop.connect() as kept, shop.connect() as silent:
        kept.sendall(get)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert everything_from(silent) == b""
        kept.sendall(get)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        # An empty line is no request, and wins no time.
        kept.sendall(b"\r\n")
        assert everything_from(kept) == b""
