"""The customers: they order while things break, and keep every answer that they got.

A customer whose request gets no answer, or one that says to try again, sends the same request with
the same idempotency key, as a shop's front end does; some give up at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from orderflow.sandbox.chaos.stack import Stack
from orderflow.sandbox.tokens import make_token

_CUSTOMERS_AT_ONCE = 12
#: A customer looks around before ordering.
_LONGEST_THOUGHT_S = 0.6
_ANSWER_TIMEOUT_S = 10.0
_TRY_AGAIN_AFTER_S = 0.2
_PATIENCE_S = 60.0
_GIVES_UP_AT_ONCE = 0.1

#: How customers pay, with which token, and how often; cash and approvals most of all.
_PAYMENTS = (
    ("card", "tok_approve", 50),
    ("wallet", "tok_approve", 10),
    ("cash", None, 10),
    ("card", "tok_decline", 10),
    ("card", "tok_lost_answer", 10),
    ("online", "tok_rate_limit", 10),
)


@dataclass
class Wish:
    """One order that a customer wants, and what came of asking for it."""

    email: str
    user: str
    key: str
    body: dict[str, Any]
    statuses: list[int | str] = field(default_factory=list)
    receipts: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_declined(self) -> bool:
        """Whether the gateway says no to this payment."""
        return bool(self.body["paymentToken"] == "tok_decline")

    @property
    def is_charged(self) -> bool:
        """Whether money is taken for it."""
        return not self.is_declined and self.body["paymentMethod"] != "cash"

    @property
    def pieces(self) -> int:
        """How many counted pieces it takes from the shelf."""
        return sum(item["quantity"] for item in self.body["items"] if item["sku"] == "counted")


class Customers:
    """All customers of one run; `tag` is in each address, so that their orders are known."""

    def __init__(self, stack: Stack, tag: str, chance: random.Random) -> None:
        self.stack = stack
        self.tag = tag
        self.wishes: list[Wish] = []
        self.waits_ms: list[float] = []
        self._chance = chance

    async def order_until(self, count: int, ended: asyncio.Event) -> None:
        """Order `count` times, and go on for as long as `ended` is not set."""
        async with self.client() as client, asyncio.TaskGroup() as group:

            async def one_after_the_other() -> None:
                while len(self.wishes) < count or not ended.is_set():
                    await asyncio.sleep(self._chance.uniform(0, _LONGEST_THOUGHT_S))
                    patient = self._chance.random() >= _GIVES_UP_AT_ONCE
                    await self.order(client, self.wish(), patient=patient)

            for _ in range(_CUSTOMERS_AT_ONCE):
                group.create_task(one_after_the_other())

    def wish(self) -> Wish:
        """Make up an order that nobody asked for yet."""
        number = len(self.wishes)
        method, token, _often = self._chance.choices(_PAYMENTS, [often for *_, often in _PAYMENTS])[
            0
        ]
        email = f"{self.tag}-{number}@shop.example"
        items = [{"sku": "counted", "quantity": self._chance.randint(1, 3)}]
        if self._chance.random() < 0.5:
            items.append({"sku": "uncounted", "quantity": 1})
        body = {
            "items": items,
            "paymentMethod": method,
            "paymentToken": token,
            "contact": {"email": email},
        }
        wish = Wish(email, f"{self.tag}-{number}", f"key-{self.tag}-{number}", body)
        self.wishes.append(wish)
        return wish

    async def order(self, client: httpx.AsyncClient, wish: Wish, *, patient: bool) -> None:
        """Send a wish until it is taken or refused; the impatient send it once."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            status = await self.send(client, wish)
            taken_or_refused = isinstance(status, int) and status < 500 and status != 429
            if taken_or_refused or not patient or time.monotonic() > deadline:
                return
            await asyncio.sleep(_TRY_AGAIN_AFTER_S)

    async def send(self, client: httpx.AsyncClient, wish: Wish) -> int | str:
        """Send a wish once; return the status, or the name of what happened instead."""
        began = time.monotonic()
        try:
            answer = await client.post(
                f"{self._chance.choice(self.stack.urls)}/checkout",
                json=wish.body,
                headers=self.headers(wish),
            )
        except httpx.HTTPError as error:
            wish.statuses.append(type(error).__name__)
            return type(error).__name__
        wish.statuses.append(answer.status_code)
        if answer.is_success:
            self.waits_ms.append((time.monotonic() - began) * 1_000)
            wish.receipts.append(answer.json())
        return answer.status_code

    def headers(self, wish: Wish) -> dict[str, str]:
        """Return what a wish is sent with."""
        token = make_token(self.stack.jwt_secret, wish.user)
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": wish.key}

    @staticmethod
    def client() -> httpx.AsyncClient:
        """Return a client that waits as long as customers do."""
        return httpx.AsyncClient(timeout=_ANSWER_TIMEOUT_S, trust_env=False)

    @property
    def p99_ms(self) -> float:
        """The wait for a 2xx that one in a hundred exceeds."""
        waits = sorted(self.waits_ms)
        return waits[int(len(waits) * 0.99)] if waits else 0.0
