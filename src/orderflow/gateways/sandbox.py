"""The adapter for the sandbox gateway (`orderflow.sandbox.gateway`), over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx

from orderflow.errors import GatewayRefused, GatewayUnavailable
from orderflow.gateways import (
    Approved,
    Charge,
    Declined,
    Entry,
    EntryKind,
    Outcome,
    Page,
    Refund,
    Refunded,
    RefundOutcome,
    RefundPending,
)
from orderflow.settings import Settings

#: Where it listens unless told otherwise.
SANDBOX_URL = "http://127.0.0.1:8010"


class SandboxGateway:
    """Charges and refunds over HTTP; the key of each travels as `Idempotency-Key`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def charge(self, charge: Charge) -> Outcome:
        """Take the money, or return what came of this key before."""
        response = await self._send(
            "POST",
            "/charges",
            headers={"Idempotency-Key": charge.key},
            json={
                "amount": f"{charge.amount:.2f}",
                "currency": charge.currency,
                "method": charge.method.value,
                "token": charge.token,
            },
        )
        return _outcome(response)

    async def find(self, charge: Charge) -> Outcome | None:
        """Return what came of the charge with this key, or None if there was none."""
        response = await self._send("GET", f"/charges/{quote(charge.key, safe='')}")
        return None if _is_unknown(response) else _outcome(response)

    async def cancel(self, charge: Charge) -> Outcome | None:
        """Return the outcome of the charge, if it has one: here none waits for anybody."""
        return await self.find(charge)

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, or return what came of this key before."""
        response = await self._send(
            "POST",
            "/refunds",
            headers={"Idempotency-Key": refund.key},
            json={
                "chargeId": refund.transaction_id,
                "amount": f"{refund.amount:.2f}",
                "currency": refund.currency,
            },
        )
        return _refund_outcome(response)

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return what came of the refund with this key, or None if there was none."""
        response = await self._send("GET", f"/refunds/{quote(refund.key, safe='')}")
        return None if _is_unknown(response) else _refund_outcome(response)

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        """Return a page of the books: what was made from `since` on and before `until`."""
        window = {"since": since.isoformat(), "until": until.isoformat()}
        params = window if after is None else window | {"after": after}
        response = await self._send("GET", f"/books/{kind.value}s", params=params)
        if response.status_code != httpx.codes.OK:
            raise GatewayRefused(reason=f"HTTP {response.status_code}")
        return _page(kind, _body(response))

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            # The request may have arrived: whether money was taken is not known here.
            raise GatewayUnavailable(reason=type(error).__name__) from error
        if response.status_code >= 500 or response.status_code in _TRY_LATER:
            raise GatewayUnavailable(reason=f"HTTP {response.status_code}")
        return response


#: Not for this request's sake: a limit, a time-out, or credentials that an operator can mend.
_TRY_LATER = frozenset({401, 403, 408, 425, 429})


def _outcome(response: httpx.Response) -> Outcome:
    body = _body(response)
    match body.get("status"):
        case "succeeded":
            return Approved(transaction_id=str(body["id"]))
        case "declined":
            return Declined(reason=str(body.get("declineReason") or "declined"))
    raise GatewayRefused(reason=f"HTTP {response.status_code}")


def _refund_outcome(response: httpx.Response) -> RefundOutcome:
    body = _body(response)
    match body.get("status"):
        case "succeeded":
            return Refunded(refund_id=str(body["id"]))
        case "pending":
            return RefundPending(refund_id=str(body["id"]))
        case "declined":
            return Declined(reason=str(body.get("declineReason") or "declined"))
    raise GatewayRefused(reason=f"HTTP {response.status_code}")


def _is_unknown(response: httpx.Response) -> bool:
    """Say whether the gateway knows no such key."""
    if response.status_code != httpx.codes.NOT_FOUND:
        return False
    # A 404 of some other server at this address says nothing about the money.
    if "error" not in _body(response):
        raise GatewayUnavailable(reason="HTTP 404 by something that is not the gateway")
    return True


def _page(kind: EntryKind, body: dict[str, Any]) -> Page:
    try:
        entries = [
            Entry(
                kind=kind,
                id=entry["id"],
                charge_id=entry["chargeId"],
                key=entry["key"],
                amount=Decimal(entry["amount"]),
                currency=entry["currency"],
                at=datetime.fromisoformat(entry["at"]),
            )
            for entry in body["entries"]
        ]
        return Page(entries, body["after"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        # Half of the books would look like money that is missing.
        raise GatewayUnavailable(reason="books that cannot be read") from error


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[SandboxGateway]:
    """Give the gateway at GATEWAY_URL; each call ends after GATEWAY_TIMEOUT_MS."""
    headers = {}
    if settings.gateway_api_key is not None:
        headers["Authorization"] = f"Bearer {settings.gateway_api_key.get_secret_value()}"
    async with httpx.AsyncClient(
        base_url=settings.gateway_url or SANDBOX_URL,
        headers=headers,
        timeout=settings.gateway_timeout_ms / 1000,
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=64),
        trust_env=False,
    ) as client:
        yield SandboxGateway(client)
