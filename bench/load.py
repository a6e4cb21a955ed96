"""A small HTTP client that costs little: what it takes of the two cores, the servers lack.

Requests are bytes that were made before, but for their idempotency key. Each connection has one
request under way. Closed: every connection sends its next request when the answer is there, which
finds the peak. Paced: requests are due at fixed times whatever the answers do, which finds how
long an answer takes at a given rate.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.errors import RowAborted
from bench.servers import now_s

_ANSWERS_TIMEOUT_S = 15.0
_PACE_S = 0.001


@dataclass
class Answers:
    """What came of the requests of one load."""

    statuses: Counter[bytes] = field(default_factory=Counter)
    first_refusal: bytes = b""
    ended_at_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def check(self) -> None:
        """Raise RowAborted unless every request was accepted."""
        refused = {status: count for status, count in self.statuses.items() if status != b"202"}
        if refused:
            raise RowAborted(f"not all answers were 202: {refused}: {self.first_refusal[-300:]!r}")

    def since(self, moment_s: float, until_s: float) -> list[float]:
        """Return how long those took that ended in a span of time."""
        return [
            took_s
            for ended_s, took_s in zip(self.ended_at_s, self.took_s, strict=True)
            if moment_s <= ended_s < until_s
        ]


class Requests:
    """Makes requests from prepared ones, each with an idempotency key that no other has."""

    def __init__(self, port: int, prepared: Sequence[tuple[str, bytes]]) -> None:
        self._prepared = [_split_request(port, token, body) for token, body in prepared]
        self._keys = _random_keys()
        self._next = 0

    def make(self) -> bytes:
        """Return the next request."""
        head, tail = self._prepared[self._next % len(self._prepared)]
        self._next += 1
        return head + next(self._keys) + tail


def _split_request(port: int, token: str, body: bytes) -> tuple[bytes, bytes]:
    """Return what comes before the key, and what comes after."""
    head = (
        f"POST /checkout HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: "
    )
    return head.encode(), b"\r\n\r\n" + body


def _random_keys() -> Iterator[bytes]:
    """Give keys as clients make them, of 128 random bits."""
    while True:
        block = os.urandom(16 * 4_096).hex().encode()
        for start in range(0, len(block), 32):
            yield block[start : start + 32]


class _Connection(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self, answers: Answers, on_answer: Callable[[_Connection], None]) -> None:
        self._answers = answers
        self._on_answer = on_answer
        self._got = b""
        self._transport: asyncio.Transport | None = None
        self._due_s = 0.0
        self.failed = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one by what it does, not by its class.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self._due_s = due_s
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        got = self._got + data if self._got else data
        head_end = got.find(b"\r\n\r\n")
        if head_end < 0 or len(got) < head_end + 4 + _content_length(got, head_end):
            self._got = got
            return
        self._got = b""
        answers = self._answers
        now = now_s()
        answers.ended_at_s.append(now)
        answers.took_s.append(now - self._due_s)
        status = got[9:12]
        answers.statuses[status] += 1
        if status != b"202" and not answers.first_refusal:
            answers.first_refusal = got
        self._on_answer(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = f"the server closed a connection: {exc or 'closed'}"
        self._answers.statuses[b"closed"] += 1
        self._answers.first_refusal = self._answers.first_refusal or self.failed.encode()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.set_protocol(asyncio.Protocol())
            self._transport.close()


def _content_length(got: bytes, head_end: int) -> int:
    # Fastify and uvicorn write it in different cases, and both write it always.
    at = got.find(b"ontent-length: ", 0, head_end)
    if at < 0:
        at = got.find(b"ontent-Length: ", 0, head_end)
    if at < 0:
        raise RowAborted(f"an answer without a length: {got[:head_end]!r}")
    return int(got[at + 15 : got.find(b"\r\n", at)])


class _Load:
    """Connections to one server, and the requests that wait for one of them."""

    def __init__(self, port: int, requests: Requests) -> None:
        self.answers = Answers()
        self.running = True
        self._port = port
        self._requests = requests
        self._connections: list[_Connection] = []
        self._free: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        self._closed_loop = False

    async def open(self, connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(self.answers, self._on_answer), "127.0.0.1", self._port
            )
            self._connections.append(connection)
            self._free.append(connection)

    def start_closed_loop(self) -> None:
        """Send on every connection, and again at every answer."""
        self._closed_loop = True
        while self._free:
            self._free.popleft().send(self._requests.make(), now_s())

    def request(self) -> None:
        """Send a request that is due now, at once or when a connection is free."""
        if self._free:
            self._free.popleft().send(self._requests.make(), now_s())
        else:
            self._late.append(now_s())

    async def end(self) -> None:
        """Wait for the answers that are still to come, and close. Raises RowAborted."""
        self.running = False
        deadline = now_s() + _ANSWERS_TIMEOUT_S
        while len(self._free) < len(self._connections):
            self.answers.check()
            if now_s() > deadline:
                missing = len(self._connections) - len(self._free)
                raise RowAborted(f"{missing} requests have no answer")
            await asyncio.sleep(0.01)
        for connection in self._connections:
            connection.close()
        self.answers.check()

    def _on_answer(self, connection: _Connection) -> None:
        if self._late:
            connection.send(self._requests.make(), self._late.popleft())
        elif self._closed_loop and self.running:
            connection.send(self._requests.make(), now_s())
        else:
            self._free.append(connection)


@dataclass(frozen=True)
class Loaded:
    """What a load found: over all how many were answered, and of the timed span each time."""

    answered: int
    took_s: list[float]
    rate: float


def load_closed(
    port: int, requests: Requests, connections: int, warm_up_s: float, timed_s: float
) -> Loaded:
    """Send as fast as the answers come. Raises RowAborted."""

    async def run(load: _Load) -> None:
        load.start_closed_loop()
        await asyncio.sleep(warm_up_s + timed_s)

    return _run(port, requests, connections, warm_up_s, timed_s, run)


def load_paced(
    port: int, requests: Requests, connections: int, warm_up_s: float, timed_s: float, rate: float
) -> Loaded:
    """Send `rate` requests a second, evenly. Raises RowAborted."""

    async def run(load: _Load) -> None:
        started_s = now_s()
        sent = 0
        while (passed_s := now_s() - started_s) < warm_up_s + timed_s:
            while sent < passed_s * rate:
                load.request()
                sent += 1
            await asyncio.sleep(_PACE_S)

    return _run(port, requests, connections, warm_up_s, timed_s, run)


def _run(
    port: int,
    requests: Requests,
    connections: int,
    warm_up_s: float,
    timed_s: float,
    run: Callable[[_Load], Awaitable[None]],
) -> Loaded:
    async def main() -> Loaded:
        load = _Load(port, requests)
        await load.open(connections)
        begin_s = now_s() + warm_up_s
        await run(load)
        await load.end()
        took_s = load.answers.since(begin_s, begin_s + timed_s)
        return Loaded(len(load.answers.took_s), took_s, len(took_s) / timed_s)

    with _no_garbage_collection():
        return uvloop.run(main())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage: a pause of ours would look like one of the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
