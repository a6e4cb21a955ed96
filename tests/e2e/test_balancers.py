"""Real APIs behind the real balancers come and go under load, and nobody is turned away."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from tests.balancing import BALANCERS, Balancer, running_balancer
from tests.conftest import SECRET, Program, start_program, wait_until
from tests.e2e.conftest import ShopProcesses, body
from tests.scraping import Scrape

from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token

#: More than HAProxy takes to see it: a second, half a second, and the answers.
GRACE_MS = 2_500
CUSTOMERS = 4
#: The load is light: what is shown does not hang on how fast this machine is.
_PAUSE_S = 0.01
#: Of this there is always one more.
GIFT = [{"sku": "gift-card", "quantity": 1}]


@dataclass
class Api:
    """One of the APIs, which keeps its ports however often it is started anew."""

    shop: ShopProcesses
    name: str
    changes: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    starts: int = 0
    program: Program | None = None

    def start(self) -> None:
        """Start it, and return when it serves."""
        self.starts += 1
        own = {
            "PORT": str(self.port),
            "METRICS_PORT": str(self.metrics_port),
            "SHUTDOWN_GRACE_MS": str(GRACE_MS),
            "FORWARDED_ALLOW_IPS": "127.0.0.1",
        }
        self.program = start_program(
            self.shop.folder / f"{self.name}.{self.starts}.log",
            "orderflow.api",
            environment=self.shop.environment | own | self.changes,
        )
        wait_until(self._ready, f"the start of {self.name}")

    def stop(self) -> None:
        """Stop as a deploy does."""
        assert self.program is not None
        assert self.program.stop() == 0, self.program.log.read_text()

    def kill(self) -> None:
        """Stop as a crash does."""
        assert self.program is not None
        self.program.process.kill()
        self.program.process.wait()

    def has_sold(self) -> bool:
        """Whether it has taken an order since it was started."""
        sold = Scrape(self.metrics_port).sum("orderflow_http_request_seconds_count", status="202")
        return sold > 0

    def _ready(self) -> bool:
        assert self.program is not None
        assert self.program.process.poll() is None, self.program.log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False


class Customers:
    """Some who buy without a pause, and look at what they bought."""

    def __init__(self, url: str, *, with_key: bool) -> None:
        self.faults: list[str] = []
        self.orders: list[str] = []
        self._url = url
        self._with_key = with_key
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._buy) for _ in range(CUSTOMERS)]

    @contextmanager
    def busy(self) -> Iterator[Customers]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._end.set()
            for thread in self._threads:
                thread.join()

    async def buy(self, more: int) -> None:
        """Return when that many more orders were taken."""
        goal = len(self.orders) + more
        await asyncio.to_thread(
            wait_until, lambda: len(self.orders) >= goal or bool(self.faults), "more orders"
        )

    def _buy(self) -> None:
        token = make_token(SECRET, f"user-{uuid.uuid4()}")
        with httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        ) as client:
            while not self._end.wait(_PAUSE_S):
                key = {"Idempotency-Key": f'"{uuid.uuid4()}"'} if self._with_key else {}
                bought = self._ask(client, 202, "POST", "/checkout", headers=key)
                if bought is not None:
                    order_id = bought.json()["orderId"]
                    self.orders.append(order_id)
                    self._ask(client, 200, "GET", f"/orders/{order_id}")

    def _ask(
        self,
        client: httpx.Client,
        expected: int,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        content = body(items=GIFT) if method == "POST" else None
        try:
            answer = client.request(method, path, headers=headers, json=content)
        except httpx.HTTPError as error:
            self.faults.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code != expected:
            self.faults.append(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        return answer


@pytest.fixture
def apis(closed_shop: ShopProcesses) -> Iterator[list[Api]]:
    """Two that serve the same shop."""
    both = [Api(closed_shop, "api-1"), Api(closed_shop, "api-2")]
    for api in both:
        api.start()
    yield both
    for api in both:
        api.kill()


@contextmanager
def balancer_of(kind: str, apis: list[Api]) -> Iterator[Balancer]:
    with running_balancer(kind, apis[0].shop.folder, [api.port for api in apis]) as balancer:
        yield balancer


async def serves_again(api: Api, customers: Customers) -> None:
    """Return when the balancer sends orders to it."""
    await asyncio.to_thread(api.start)
    await asyncio.to_thread(
        wait_until, lambda: bool(customers.faults) or api.has_sold(), f"{api.name} in use"
    )
    await customers.buy(20)


def first_event(url: str, order_id: str) -> str:
    """Follow an order until there is something to be told."""
    with httpx.stream(
        "GET",
        f"{url}/orders/{order_id}/events",
        headers={"Authorization": f"Bearer {make_token(SECRET, 'olga', admin=True)}"},
        timeout=30,
        trust_env=False,
    ) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return next(line for line in answer.iter_lines() if line.startswith("data:"))


@pytest.mark.parametrize("kind", BALANCERS)
async def test_no_request_fails_while_apis_stop_and_die(kind, apis, sql):
    first, second = apis
    with (
        balancer_of(kind, apis) as balancer,
        Customers(balancer.url, with_key=True).busy() as customers,
    ):
        await customers.buy(40)
        told = await asyncio.to_thread(first_event, balancer.url, customers.orders[0])
        assert '"pending"' in told
        await asyncio.to_thread(first.stop)
        await customers.buy(40)
        await serves_again(first, customers)
        await asyncio.to_thread(second.kill)
        await customers.buy(40)
        await serves_again(second, customers)
    assert customers.faults == [], balancer.log.read_text()
    # What was sent twice was done once.
    assert len(set(customers.orders)) == len(customers.orders)
    assert await sql.fetchval("SELECT count(*) FROM orders") == len(customers.orders)


async def test_an_api_is_replaced_behind_haproxy_though_nobody_sends_a_key(apis, sql):
    """It asks for /readyz, so nothing is on its way to a port that closes."""
    first, _ = apis
    with (
        balancer_of("haproxy", apis) as balancer,
        Customers(balancer.url, with_key=False).busy() as customers,
    ):
        await customers.buy(40)
        await asyncio.to_thread(first.stop)
        await customers.buy(40)
        await serves_again(first, customers)
    assert customers.faults == [], balancer.log.read_text()
    assert await sql.fetchval("SELECT count(*) FROM orders") == len(customers.orders)


@pytest.mark.parametrize("kind", BALANCERS)
def test_customers_are_counted_by_their_own_addresses(kind, closed_shop):
    api = Api(closed_shop, "api", {"CHECKOUT_RATE_PER_ADDRESS": "1/60"})
    api.start()
    token = make_token(SECRET, "user-1")

    def buy(address: str) -> int:
        with httpx.Client(
            transport=httpx.HTTPTransport(local_address=address),
            headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": str(uuid.uuid4())},
            timeout=30,
        ) as client:
            return client.post(f"{balancer.url}/checkout", json=body(items=GIFT)).status_code

    try:
        with running_balancer(kind, closed_shop.folder, [api.port, free_port()]) as balancer:
            said = [buy(address) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.2")]
    finally:
        api.kill()
    assert said == [202, 202, 429]
