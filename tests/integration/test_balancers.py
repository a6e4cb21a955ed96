"""What the load balancers of deploy/ pass on, to whom, and what they send a second time."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.balancing import BALANCERS, Balancer, haproxy, nginx, running_balancer

from orderflow.api.protocol import MAX_HEAD_BYTES
from orderflow.settings import Settings

MOST_BODY_BYTES = 1_048_576


class Upstream(ThreadingHTTPServer):
    """Stands where an API does, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, *, answers: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[str] = []
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Tells what it was asked; or leaves without a word, as a process that is killed does."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/readyz":
            self._answer(b"{}")
            return
        self.server.asked.append(f"{self.command} {self.path}")
        if not self.server.answers:
            self.close_connection = True
        elif "text/event-stream" in self.headers["Accept"]:
            self._stream()
        else:
            said = {"headers": dict(self.headers.items()), "bytes": len(body)}
            self._answer(json.dumps(said).encode())

    do_POST = do_GET  # noqa: N815 - named so by http.server

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """Tell of one event, and of no other until the test is over."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"event: status\ndata: {}\n\n")
        self.server.over.wait(60)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@contextmanager
def upstreams(*, answers: bool) -> Iterator[list[Upstream]]:
    servers = [Upstream(answers=answers) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@contextmanager
def balanced(
    kind: str, folder: Path, *, answers: bool
) -> Iterator[tuple[Balancer, list[Upstream]]]:
    with ExitStack() as stack:
        servers = stack.enter_context(upstreams(answers=answers))
        ports = [server.server_port for server in servers]
        yield stack.enter_context(running_balancer(kind, folder, ports)), servers


@pytest.fixture(params=BALANCERS)
def passing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Balancer, list[Upstream]]]:
    with balanced(request.param, tmp_path, answers=True) as both:
        yield both


def ask(url: str, method: str, path: str, **others: object) -> httpx.Response:
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        return client.request(method, path, **others)


def is_problem(answer: httpx.Response) -> bool:
    return (
        answer.headers["Content-Type"] == "application/problem+json"
        and answer.json()["status"] == answer.status_code
    )


@pytest.mark.parametrize(("write", "check"), [(haproxy, "-c"), (nginx, "-t")], ids=BALANCERS)
def test_the_balancer_takes_its_configuration(tmp_path: Path, write, check):
    checked = subprocess.run(
        [*write(tmp_path, (8001, 8002), 8080, 8081), check],
        capture_output=True,
        text=True,
        check=False,
    )
    said = checked.stdout + checked.stderr
    assert checked.returncode == 0, said
    assert "[warn]" not in said.lower(), said
    assert "[WARNING]" not in said, said


KEY = {"Idempotency-Key": '"k-1"'}


@pytest.mark.parametrize("kind", BALANCERS)
@pytest.mark.parametrize(
    ("method", "path", "headers", "again"),
    [
        ("GET", "/orders/1", {}, True),
        ("POST", "/checkout", KEY, True),
        ("POST", "/checkout", {}, False),
        ("POST", "/orders/1/cancel", KEY, False),
        ("POST", "/webhooks/stripe", {}, False),
    ],
    ids=["get", "checkout-with-key", "checkout", "cancel", "webhook"],
)
def test_only_what_is_harmless_is_sent_again(kind, tmp_path, method, path, headers, again):
    with balanced(kind, tmp_path, answers=False) as (balancer, servers):
        answer = ask(balancer.url, method, path, headers=headers)
        asked = [len(server.asked) for server in servers]
    assert answer.status_code == 502
    assert is_problem(answer)
    # It may have been done, so nobody is told to come again.
    assert "Retry-After" not in answer.headers
    if again:
        assert all(asked), "the other one was not asked"
    else:
        assert sum(asked) == 1
    assert {one for server in servers for one in server.asked} == {f"{method} {path}"}


@pytest.mark.parametrize("path", ["/admin", "/admin/api/queues", "/%61dmin", "/metrics"])
def test_customers_do_not_reach_what_is_for_operators(passing, path):
    balancer, servers = passing
    answer = ask(balancer.url, "GET", path)
    assert answer.status_code == 404
    assert is_problem(answer)
    assert not [one for server in servers for one in server.asked]
    assert ask(balancer.operators_url, "GET", path).status_code == 200


@pytest.mark.parametrize("listener", ["url", "operators_url"])
def test_the_api_is_told_who_asks_and_nobody_can_lie(passing, listener):
    balancer, _ = passing
    sent = {
        "Host": "shop.example",
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "Idempotency-Key": '"k-1"',
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
    }
    answer = ask(getattr(balancer, listener), "POST", "/checkout", headers=sent, json={})
    arrived = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert arrived["x-forwarded-for"] == "127.0.0.1"
    assert arrived["x-forwarded-proto"] == "http"
    for name in ("Host", "Idempotency-Key", "traceparent"):
        assert arrived[name.lower()] == sent[name]


def test_what_is_too_large_is_the_apis_to_refuse_as_far_as_it_may_be_set(passing):
    balancer, _ = passing
    largest = Settings.model_fields["max_body_bytes"].metadata
    assert MOST_BODY_BYTES in {getattr(bound, "le", None) for bound in largest}
    whole = ask(balancer.url, "POST", "/checkout", content=b" " * MOST_BODY_BYTES)
    assert whole.json()["bytes"] == MOST_BODY_BYTES
    head = ask(balancer.url, "GET", "/orders", headers={"X": "a" * (MAX_HEAD_BYTES - 1_000)})
    assert head.status_code == 200
    refused = ask(balancer.url, "POST", "/checkout", content=b" " * (MOST_BODY_BYTES + 1))
    assert refused.status_code == 413
    assert is_problem(refused)


@pytest.mark.parametrize(
    ("listener", "path"), [("url", "/orders/1/events"), ("operators_url", "/admin")]
)
def test_an_event_comes_while_the_stream_is_open(passing, listener, path):
    balancer, _ = passing
    with httpx.stream(
        "GET",
        f"{getattr(balancer, listener)}{path}",
        headers={"Accept": "text/event-stream"},
        timeout=20,
        trust_env=False,
    ) as answer:
        assert next(answer.iter_lines()) == "event: status"
