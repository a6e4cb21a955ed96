"""Rows about POST /checkout: orders a second, how long an answer takes, and what it holds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from bench.errors import RowAborted
from bench.load import Loaded, Requests, load_closed, load_paced
from bench.processes import Program, node, python, wait_until
from bench.rows import MeasureSide, Options, Row, Side, Values, cost, rate
from bench.servers import (
    SECRET,
    Lab,
    Place,
    QueueWatch,
    fetch,
    open_lab,
    percentile,
    to_json,
)
from bench.shop import PRODUCTS, STOCK
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token

CONNECTIONS = 64
_USERS = 200
_PREPARED = 1_000
_WARM_UP_S = 5.0
_TIMED_S = 6.0
#: Of the one connection, and of the requests that come at fixed times.
_CALM_WARM_UP_S = 2.0
_CALM_TIMED_S = 5.0

FASTIFY = node("api.mjs")
_FASTIFY_BATCHED = node("api_batched.mjs")
OUR_API = python("orderflow.api")


@dataclass(frozen=True)
class Api:
    """A checkout service that answers, and where its orders go."""

    lab: Lab
    place: Place
    program: Program
    port: int
    rows_before: Mapping[str, int]

    def closed(self, options: Options, connections: int = CONNECTIONS) -> Loaded:
        """Load it with all that it takes."""
        return load_closed(
            self.port,
            Requests(self.port, prepared_requests()),
            connections,
            options.seconds(_WARM_UP_S),
            options.seconds(_TIMED_S),
        )

    def calm(self, options: Options, paced: float | None) -> Loaded:
        """Load it with one connection, or with so many requests a second."""
        requests = Requests(self.port, prepared_requests())
        warm_up_s, timed_s = options.seconds(_CALM_WARM_UP_S), options.seconds(_CALM_TIMED_S)
        if paced is None:
            return load_closed(self.port, requests, 1, warm_up_s, timed_s)
        return load_paced(self.port, requests, CONNECTIONS, warm_up_s, timed_s, paced)


@contextmanager
def running_api(lab: Lab, place: Place, command: Sequence[str]) -> Iterator[Api]:
    """Give a checkout service, once it answers."""
    port = free_port()
    rows_before = count_rows(place)
    environment = place.environment(HOST="127.0.0.1", PORT=str(port), WEB_CONCURRENCY="1")
    with lab.running("api", command, environment) as program:
        wait_until(lambda: _answers(port), "the API", [program])
        yield Api(lab, place, program, port, rows_before)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def prepared_requests() -> list[tuple[str, bytes]]:
    """Return tokens and bodies, the same for both sides: two lines of counted stock each."""
    # The same orders on every machine.
    choose = random.Random(1)
    tokens = [make_token(SECRET, f"user-{n}", ttl_s=86_400) for n in range(_USERS)]
    return [(choose.choice(tokens), to_json(_body(choose)).encode()) for _ in range(_PREPARED)]


def _body(choose: random.Random) -> dict[str, object]:
    first, second = choose.sample(range(1, PRODUCTS + 1), 2)
    return {
        "items": [
            {"sku": f"sku-{first:04}", "quantity": 1},
            {"sku": f"sku-{second:04}", "quantity": 2},
        ],
        "paymentMethod": "card",
        "paymentToken": "tok_approve",
        "contact": {"email": "ada@shop.example"},
        "shippingAddress": {
            "name": "Ada Lovelace",
            "line1": "12 St James's Square",
            "postalCode": "SW1Y 4JH",
            "city": "London",
            "country": "GB",
        },
    }


_COUNTS = """
SELECT
    (SELECT count(*) FROM orders) AS orders,
    (SELECT count(*) FROM payments) AS payments,
    (SELECT count(*) FROM idempotency_keys) AS keys,
    (SELECT count(*) FROM order_items) / 2.0 AS lines,
    (SELECT sum($1 - stock) FROM products) / 3.0 AS stock
"""


def count_rows(place: Place) -> dict[str, int]:
    """Return how many orders there are, by each of their parts."""
    counts = fetch(place.database_url, _COUNTS, STOCK)[0]
    return {what: int(count) for what, count in counts.items()}


def check_written(api: Api, orders: int) -> None:
    """Raise RowAborted unless every answered order is whole, and has its job."""
    now = count_rows(api.place)
    written = {what: count - api.rows_before[what] for what, count in now.items()}
    if set(written.values()) != {orders}:
        raise RowAborted(f"{orders} orders were answered, written are {written}")
    watch = QueueWatch(api.lab.redis, api.place.prefix, "payment-processing")
    wait_until(
        lambda: watch.waiting() == orders, f"{orders} payment jobs", [api.program], patience_s=10
    )


@contextmanager
def _open_checkout(options: Options, peer: Sequence[str]) -> Iterator[MeasureSide]:
    with open_lab(options.log_level, postgres=True) as lab:

        def measure(side: Side) -> Values:
            command = peer if side is Side.PEER else OUR_API
            with lab.place() as place, running_api(lab, place, command) as api:
                loaded = api.closed(options)
                check_written(api, loaded.answered)
                return {"": loaded.rate}

        yield measure


@contextmanager
def _open_latency(options: Options) -> Iterator[MeasureSide]:
    with open_lab(options.log_level, postgres=True) as lab:
        with lab.place() as place, running_api(lab, place, FASTIFY) as api:
            half_s = api.closed(options).rate / 2

        def measure(side: Side) -> Values:
            command = FASTIFY if side is Side.PEER else OUR_API
            with lab.place() as place, running_api(lab, place, command) as api:
                # What compiles under load is compiled before.
                answered = api.closed(options).answered
                alone = api.calm(options, None)
                paced = api.calm(options, half_s)
                check_written(api, answered + alone.answered + paced.answered)
            return {
                "-p50": statistics.median(alone.took_s) * 1000,
                "-p99": percentile(paced.took_s, 99) * 1000,
            }

        yield measure


_ONE = "Fastify, one statement an order"
_BATCHED = "Fastify, batched"
_OURS = "orderflow API"

CHECKOUT_ROWS = [
    Row(
        "checkout",
        _ONE,
        _OURS,
        [rate("checkout", "orders/s", 2, 3)],
        partial(_open_checkout, peer=FASTIFY),
    ),
    Row(
        "checkout-batched",
        _BATCHED,
        _OURS,
        [rate("checkout-batched", "orders/s", 0.8, 1.0)],
        partial(_open_checkout, peer=_FASTIFY_BATCHED),
    ),
    Row(
        "checkout-latency",
        _ONE,
        _OURS,
        [cost(f"checkout-latency-{point}", "ms", 1.2, 1.0) for point in ("p50", "p99")],
        _open_latency,
    ),
]
