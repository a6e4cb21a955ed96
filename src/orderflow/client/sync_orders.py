"""The client for everybody else: threads, scripts, Django. See `Orders`: it does the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from orderflow.client import calls
from orderflow.client.answers import LiveStatus, Order, OrderRefund, Receipt, Shipment
from orderflow.client.calls import Call, Checkout, OrderId
from orderflow.client.following import TIMEOUT, Following
from orderflow.client.tries import DEADLINE_S, NO_ANSWER, Again, Outcome, Tries

T = TypeVar("T")

Token = str | Callable[[], str]


class SyncOrders:
    """The orders of one user at the shop at `url`, or all of them for an admin.

    `token` is the user's bearer token, or what returns one: it is asked before each try, so that
    it may renew what expired. `deadline_s` is how long a call may take with all of its tries.
    `http` brings proxies and certificates of your own, and is yours to close: one for all users
    of a process spares each a connection. Use this as a context, or `close` it.

    Every call raises Problem where the shop refuses, Unanswered where it did not answer in time,
    and UnreadableAnswer where another server answered; each is an OrderflowError. A `url` or a
    token that is not usable is a ValueError.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        deadline_s: float = DEADLINE_S,
        http: httpx.Client | None = None,
    ) -> None:
        self._url = calls.checked_url(url)
        self._token = token
        self._deadline_s = deadline_s
        self._http = http or httpx.Client()
        self._http_is_ours = http is None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they were given."""
        if self._http_is_ours:
            self._http.close()

    def checkout(
        self, *, idempotency_key: str | None = None, **wanted: Unpack[Checkout]
    ) -> Receipt:
        """Place an order. It is charged in the background: see `events`, or ask for `order`.

        However often this has to try, it makes one order. With an `idempotency_key` of your own,
        as the id of a cart, so do calls after an Unanswered, or a crash of yours.
        """
        return self._ask(calls.checkout(**wanted, idempotency_key=idempotency_key))

    def order(self, order_id: OrderId) -> Order:
        """Return how an order is now."""
        return self._ask(calls.order(order_id))

    def orders(self, *, status: str | None = None) -> Iterator[Order]:
        """Give the orders, newest first, of this status if one is named. Pages come as needed."""
        cursor: str | None = None
        while True:
            page = self._ask(calls.orders(status, cursor))
            yield from page.orders
            cursor = page.next_cursor
            if cursor is None:
                return

    def events(self, order_id: OrderId, *, after: str | None = None) -> Iterator[LiveStatus]:
        """Give how an order is, then each change, until there is no more to come of it.

        A connection that is lost is made again, and goes on where it was. To go on from an
        earlier run name the `event_id` of its last status as `after`.
        """
        following = Following(order_id, after, self._deadline_s)
        while not following.ended:
            request = self._request(following.next_call(), TIMEOUT)
            try:
                with closing(self._http.send(request, stream=True)) as response:
                    if following.opens(response):
                        for sent in EventSource(response).iter_sse():
                            if (status := following.take(sent, response)) is not None:
                                yield status
                    else:
                        response.read()
                    outcome: Outcome = response
            except NO_ANSWER as error:
                outcome = error
            time.sleep(following.closed(outcome))

    def cancel(self, order_id: OrderId) -> Order:
        """Cancel an order of the user's own, until it is shipped; return how it is then."""
        return self._ask(calls.cancel(order_id))

    def refund(
        self,
        order_id: OrderId,
        amount: Decimal | None = None,
        *,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> OrderRefund:
        """Have money given back, for admins: an amount, or all that is left.

        The same key gets the same refund. The reason is for the audit log, here and below.
        """
        return self._ask(calls.refund(order_id, amount, reason, idempotency_key))

    def ship(
        self, order_id: OrderId, carrier: str, tracking_number: str, *, reason: str = ""
    ) -> Shipment:
        """Say that an order is on its way, for admins."""
        return self._ask(calls.ship(order_id, carrier, tracking_number, reason))

    def deliver(self, order_id: OrderId, *, reason: str = "") -> Shipment:
        """Say that an order has come, for admins."""
        return self._ask(calls.deliver(order_id, reason))

    def _ask(self, call: Call[T]) -> T:
        tries = Tries(call, self._deadline_s)
        while True:
            verdict = tries.judge(self._try(call, tries.step_s))
            if not isinstance(verdict, Again):
                return verdict
            time.sleep(verdict.wait_s)

    def _try(self, call: Call[T], step_s: float) -> Outcome:
        request = self._request(call, step_s)
        try:
            return self._http.send(request)
        except NO_ANSWER as error:
            return error

    def _request(self, call: Call[T], limits: float | httpx.Timeout) -> httpx.Request:
        token = self._token() if callable(self._token) else self._token
        return call.request(self._http, self._url, token, limits)
