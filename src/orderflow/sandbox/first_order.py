"""The first order: placed over HTTP as a client would, and followed to its mail."""

from __future__ import annotations

import asyncio
import email
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.policy import default
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

_PATIENCE_S = 30.0
_LOOK_EVERY_S = 0.01


class OrderStuck(Exception):
    """The order did not come as far as it should; the message says where it stopped."""


@dataclass(frozen=True, slots=True)
class Shop:
    """Where a running shop can be reached and watched."""

    api_url: str
    gateway_url: str
    mail_folder: Path
    token: str
    sku: str

    def checkout_body(self) -> dict[str, Any]:
        """Return a checkout that the sandbox gateway approves."""
        return {
            "items": [{"sku": self.sku, "quantity": 1}],
            "paymentMethod": "card",
            "paymentToken": "tok_approve",
            "contact": {"email": "ada@shop.example"},
        }


async def follow_first_order(shop: Shop, say: Callable[[str], None]) -> None:
    """Place an order and tell each step with the milliseconds since the request was sent.

    Raises OrderStuck.
    """
    async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
        begun = time.monotonic()

        def step(text: str) -> None:
            say(f"  {(time.monotonic() - begun) * 1000:7.0f} ms  {text}")

        receipt = await _place(client, shop)
        order_id, payment_id = receipt["orderId"], receipt["paymentId"]
        step(f"202        order {order_id}, {receipt['total']} {receipt['currency']}")
        charge = await _until("charged", lambda: _charge(client, shop, payment_id))
        step(f"charged    {charge['id']} at the sandbox gateway")
        await _until("confirmed", lambda: _confirmed(client, shop, order_id))
        step(f"confirmed  GET /orders/{order_id}")
        mail = await _until("mailed", lambda: asyncio.to_thread(_mail, shop.mail_folder, order_id))
        step(f"mailed     “{mail['Subject']}” to {mail['To']}")


async def _place(client: httpx.AsyncClient, shop: Shop) -> dict[str, Any]:
    response = await client.post(
        f"{shop.api_url}/checkout",
        json=shop.checkout_body(),
        headers={"Authorization": f"Bearer {shop.token}"},
    )
    if response.status_code != httpx.codes.ACCEPTED:
        raise OrderStuck(f"POST /checkout answered {response.status_code}: {response.text}")
    receipt: dict[str, Any] = response.json()
    return receipt


async def _charge(client: httpx.AsyncClient, shop: Shop, payment_id: str) -> dict[str, Any] | None:
    response = await client.get(f"{shop.gateway_url}/charges/{payment_id}")
    if response.status_code != httpx.codes.OK:
        return None
    charge: dict[str, Any] = response.json()
    return charge


async def _confirmed(client: httpx.AsyncClient, shop: Shop, order_id: str) -> bool:
    response = await client.get(
        f"{shop.api_url}/orders/{order_id}", headers={"Authorization": f"Bearer {shop.token}"}
    )
    return bool(response.json().get("status") == "confirmed")


def _mail(folder: Path, order_id: str) -> email.message.EmailMessage | None:
    for file in sorted(folder.glob("*.eml"), reverse=True):
        mail = email.message_from_bytes(file.read_bytes(), policy=default)
        if order_id in str(mail["Subject"]):
            return mail
    return None


async def _until(what: str, look: Callable[[], Awaitable[T | None]]) -> T:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        found = await look()
        if found:
            return found
        await asyncio.sleep(_LOOK_EVERY_S)
    raise OrderStuck(f"the order was not {what} within {_PATIENCE_S:.0f} s")
