"""Every request of the API that a client makes, and how its answer is read. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Generic, Required, TypedDict, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, ValidationError

from orderflow.client.answers import Address, Order, OrderPage, OrderRefund, Receipt, Shipment
from orderflow.client.failures import problem_of, unreadable

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

#: An order may also be one of another producer, whose id is any text.
OrderId = UUID | str

#: Pages of a list are as long as the API lets them be: who reads a list mostly reads all of it.
PAGE_SIZE = 100


class Checkout(TypedDict, total=False):
    """What a customer orders. `items` says how many of each sku; prices are the shop's.

    The token is the gateway's for the customer's card. The phone is written as +4915112345678,
    the language as de or de-AT. Rules are the shop's to check: it names each field at fault.
    """

    items: Required[Mapping[str, int]]
    payment_method: Required[str]
    payment_token: str | None
    email: Required[str]
    phone: str | None
    language: str | None
    shipping_address: Address | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, and what its answer is read as.

    Each may be sent any number of times and is done once: it only reads, or asks for what then is
    so already, or has an idempotency key.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    idempotency_key: str | None = None

    def request(
        self,
        http: httpx.Client | httpx.AsyncClient,
        url: str,
        token: str,
        limits: float | httpx.Timeout,
    ) -> httpx.Request:
        """Return the request, for the shop at `url`. Raises ValueError for an unusable token."""
        headers = {**self.headers, "Authorization": f"Bearer {_checked(token)}"}
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = _quoted(self.idempotency_key)
        return http.build_request(
            self.method,
            f"{url}{self.path}",
            params=self.params,
            headers=headers,
            json=self.body,
            timeout=limits,
        )

    def answer(self, response: httpx.Response) -> T:
        """Return what the answer says. Raises Problem or UnreadableAnswer."""
        if not response.is_success:
            raise problem_of(response)
        return self.read(response)


def checked_url(url: str) -> str:
    """Return the address of a shop, for paths to follow. Raises ValueError."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("url: must begin with http:// or https://")
    return url.rstrip("/")


def checkout(
    *,
    items: Mapping[str, int],
    payment_method: str,
    email: str,
    payment_token: str | None = None,
    phone: str | None = None,
    language: str | None = None,
    shipping_address: Address | None = None,
    idempotency_key: str | None = None,
) -> Call[Receipt]:
    """Place an order. Without a key of the caller's it gets one of its own."""
    address = None
    if shipping_address is not None:
        address = shipping_address.model_dump(by_alias=True, exclude_none=True)
    return Call(
        method="POST",
        path="/checkout",
        read=_read_receipt,
        body=_given(
            items=[{"sku": sku, "quantity": quantity} for sku, quantity in items.items()],
            paymentMethod=payment_method,
            paymentToken=payment_token,
            contact=_given(email=email, phone=phone, language=language),
            shippingAddress=address,
        ),
        idempotency_key=idempotency_key or str(uuid4()),
    )


def order(order_id: OrderId) -> Call[Order]:
    """Ask how an order is."""
    return Call(method="GET", path=_order(order_id), read=_as(Order))


def orders(status: str | None, cursor: str | None = None) -> Call[OrderPage]:
    """Ask for a page of orders."""
    return Call(
        method="GET",
        path="/orders",
        read=_as(OrderPage),
        params=_given(status=status, cursor=cursor, limit=str(PAGE_SIZE)),
    )


def cancel(order_id: OrderId) -> Call[Order]:
    """Cancel an order of one's own."""
    return Call(method="POST", path=f"{_order(order_id)}/cancel", read=_as(Order))


def refund(
    order_id: OrderId, amount: Decimal | None, reason: str, idempotency_key: str | None
) -> Call[OrderRefund]:
    """Give money back."""
    return Call(
        method="POST",
        path=f"{_admin(order_id)}/refund",
        read=_as(OrderRefund),
        body=_given(amount=None if amount is None else f"{amount:.2f}", reason=reason),
        idempotency_key=idempotency_key or str(uuid4()),
    )


def ship(order_id: OrderId, carrier: str, tracking_number: str, reason: str) -> Call[Shipment]:
    """Say that an order is on its way."""
    return Call(
        method="POST",
        path=f"{_admin(order_id)}/ship",
        read=_as(Shipment),
        body={"carrier": carrier, "trackingNumber": tracking_number, "reason": reason},
    )


def deliver(order_id: OrderId, reason: str) -> Call[Shipment]:
    """Say that an order has come."""
    return Call(
        method="POST",
        path=f"{_admin(order_id)}/deliver",
        read=_as(Shipment),
        body={"reason": reason},
    )


def events(order_id: OrderId, after: str | None) -> Call[None]:
    """Follow an order, from behind the event `after`. What is read is the stream, not the end."""
    return Call(
        method="GET",
        path=f"{_order(order_id)}/events",
        read=lambda _response: None,
        headers={"Accept": "text/event-stream"}
        | ({} if after is None else {"Last-Event-ID": after}),
    )


def _order(order_id: OrderId) -> str:
    return f"/orders/{quote(str(order_id), safe='')}"


def _admin(order_id: OrderId) -> str:
    return f"/admin/api{_order(order_id)}"


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are there: what is left out is the shop's to decide."""
    return {name: value for name, value in fields.items() if value is not None}


def _as(model: type[M]) -> Callable[[httpx.Response], M]:
    return lambda response: read_json(response.content, model, response)


def _read_receipt(response: httpx.Response) -> Receipt:
    replayed = "Idempotent-Replayed" in response.headers
    return read_json(response.content, Receipt, response, replayed=replayed)


def read_json(text: bytes | str, model: type[M], response: httpx.Response, **more: Any) -> M:
    """Return what an answer says, and `more`, as a model. Raises UnreadableAnswer."""
    try:
        return model.model_validate({**json.loads(text), **more})
    except ValidationError as error:
        # Without its input, which is somebody's order.
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise unreadable(response, f"{where} of {model.__name__}: {first['msg']}") from None
    except (ValueError, TypeError):
        raise unreadable(response, f"{model.__name__}: must be an object of JSON") from None


def _checked(token: str) -> str:
    # Here and not by httpx, whose error would show the token.
    plain = token.strip()
    if not (plain and plain.isascii() and plain.isprintable()):
        raise ValueError("token: must be printable ASCII, and not empty")
    return plain


def _quoted(key: str) -> str:
    """Return a key as a structured field string, which any key of printable ASCII can be."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError("idempotency_key: must be printable ASCII")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
