"""The sandbox's payment gateway: `python -m orderflow.sandbox.gateway`.

It takes no money. What it takes seriously is the ledger: a charge is on disk before it is
answered, so it outlives every crash of orderflow and of the gateway, and can be counted. One
idempotency key is one row, for good; asked again, it gives the first answer again.

The `token` of a charge says how it goes. Calls with a key are counted in memory:

| token                  | what happens                                                         |
|------------------------|----------------------------------------------------------------------|
| null, `tok_approve`    | approved, as is any token that is not in this table                  |
| `tok_decline`          | declined with `card_declined`                                        |
| `tok_decline_<reason>` | declined with that reason: `tok_decline_insufficient_funds`          |
| `tok_slow`             | charged at once, answered after 3 s                                  |
| `tok_503`              | 503 every time, not charged                                          |
| `tok_503_twice`        | 503 for the first two calls with a key, then approved                |
| `tok_rate_limit`       | 429 with Retry-After for the first call with a key, then approved    |
| `tok_lost_answer`      | charged, then the connection drops; later calls get the first answer |
| `tok_hang`             | no answer for as long as the client waits, not charged               |

A charge whose token begins with `tok_refund_` is approved, and says how its refunds go:

| token                    | what happens to a refund                                           |
|--------------------------|--------------------------------------------------------------------|
| `tok_refund_decline`     | declined with `refund_declined`                                    |
| `tok_refund_503`         | 503 every time, not given back                                     |
| `tok_refund_503_twice`   | 503 for the first two calls with a key, then given back            |
| `tok_refund_lost_answer` | given back, then the connection drops; then the first answer       |
| `tok_refund_late`        | pending for the first two calls with a key, then given back        |
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import logging
import random
import re
import signal
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast
from uuid import uuid4

import uvicorn
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orderflow.logs import configure_logs
from orderflow.sandbox.ledger import Charge, Ledger, Refund

#: Tokens that fail at first: the status, and for how many calls with one key.
_FAILURES = {
    "tok_503": (503, 10**9),
    "tok_503_twice": (503, 2),
    "tok_rate_limit": (429, 1),
    "refund_503": (503, 10**9),
    "refund_503_twice": (503, 2),
}
#: The scenarios of refunds. The id of a charge tells its own, so that it outlives this process.
_OF_REFUNDS = ("decline", "503", "503_twice", "lost_answer", "late")
_CHARGE_ID = re.compile(rf"ch_(?:(refund_(?:{'|'.join(_OF_REFUNDS)}))_)?[0-9a-f]{{32}}")
#: Calls that find a late refund pending.
_LATE_CALLS = 2

M = TypeVar("M", bound=BaseModel)
_log = logging.getLogger("orderflow.sandbox.gateway")


Money = Annotated[
    str,
    Field(pattern=r"^[0-9]{1,10}(\.[0-9]{1,2})?$"),
    AfterValidator(lambda amount: f"{Decimal(amount):.2f}"),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class ChargeRequest(BaseModel):
    """The body of POST /charges. Money is text, so that no float ever rounds it."""

    amount: Money
    currency: Currency
    # Cash has nothing to charge: whoever sends it here has a fault worth showing.
    method: Literal["card", "online", "wallet"]
    token: str | None = Field(default=None, max_length=255)


class RefundRequest(BaseModel):
    """The body of POST /refunds."""

    charge_id: str = Field(alias="chargeId", max_length=255)
    amount: Money
    currency: Currency


class BooksQuery(BaseModel):
    """The query of GET /books/charges and /books/refunds: a time, and where a page begins."""

    since: AwareDatetime
    until: AwareDatetime
    after: str = Field(default="", max_length=255)


class Faults(BaseModel):
    """What goes wrong on purpose with POST /charges, whatever the token."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )

    fail_next_charges: int = Field(default=0, ge=0, le=1_000_000_000)
    fault_rate: float = Field(default=0.0, ge=0, le=1)
    latency_ms: int = Field(default=0, ge=0, le=600_000)


class Refusal(HTTPException):
    """An answer without an outcome; `field` names the part of the request at fault."""

    def __init__(self, status: int, message: str, field: str | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(status, message, named or None)
        self.field = field


class Gateway:
    """The endpoints, over one ledger."""

    def __init__(self, ledger: Ledger, faults: Faults, api_key: str | None) -> None:
        self._ledger = ledger
        self._faults = faults
        self._api_key = api_key
        self._calls: Counter[str] = Counter()

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/charges", self.charge, methods=["POST"]),
                Route("/charges", self.charges),
                Route("/charges/{key:path}", self.outcome),
                Route("/refunds", self.refund, methods=["POST"]),
                Route("/refunds/{key:path}", self.refund_outcome),
                Route("/books/{kind}", self.books),
                Route("/faults", self.faults, methods=["GET", "POST"]),
                Route("/livez", self.alive),
            ],
            exception_handlers={HTTPException: _refused, sqlite3.Error: _ledger_failed},
        )

    async def charge(self, request: Request) -> Response:
        """Take one charge: the outcome of its key, new or kept."""
        self._let_in(request)
        await asyncio.sleep(self._faults.latency_ms / 1_000)
        self._fail_on_purpose()
        key = _idempotency_key(request)
        asked = _read(ChargeRequest, await request.body())
        scenario = asked.token or "tok_approve"
        kept = self._ledger.find(key)
        if kept is None:
            if scenario == "tok_hang":
                return await _client_gone(request.receive)
            self._fail_at_first(key, scenario)
            charge = _decide(key, asked, scenario)
            kept = await self._ledger.keep(charge)
            if kept == charge:
                self._calls.pop(key, None)
                if scenario == "tok_lost_answer":
                    request.scope["drop_connection"]()
                    return await _client_gone(request.receive)
                if scenario == "tok_slow":
                    await asyncio.sleep(3)
                return _answer(charge)
        if (kept.amount, kept.currency) != (asked.amount, asked.currency):
            raise Refusal(409, f"this key is for {kept.amount} {kept.currency}", "Idempotency-Key")
        return _answer(kept, replayed=True)

    async def outcome(self, request: Request) -> Response:
        """Tell what became of a key."""
        self._let_in(request)
        kept = self._ledger.find(request.path_params["key"])
        if kept is None:
            raise Refusal(404, "no charge has this key", "key")
        return _answer(kept, 200)

    async def charges(self, request: Request) -> Response:
        """Count the charges of all keys, of one (`?key=`), or of those from one on (`?from=`)."""
        self._let_in(request)
        key = request.query_params.get("key")
        first = request.query_params.get("from", "") if key is None else key
        return JSONResponse(self._ledger.count(first, "\x7f" if key is None else key))

    async def refund(self, request: Request) -> Response:
        """Give money back: the outcome of its key, new or kept."""
        self._let_in(request)
        key = _idempotency_key(request)
        asked = _read(RefundRequest, await request.body())
        kept = self._ledger.find_refund(key)
        if kept is not None:
            if (kept.charge_id, kept.amount) != (asked.charge_id, asked.amount):
                message = f"this key is for {kept.amount} {kept.currency} of {kept.charge_id}"
                raise Refusal(409, message, "Idempotency-Key")
            return _refund_answer(await self._as_it_is_now(kept), replayed=True)
        charge = self._ledger.find_charge(asked.charge_id)
        if charge is None or charge.status != "succeeded":
            raise Refusal(422, "there is no such charge", "chargeId")
        if asked.currency != charge.currency:
            raise Refusal(422, f"the charge is in {charge.currency}", "currency")
        scenario = _scenario_of(charge)
        self._fail_at_first(key, scenario)
        refund = _decide_refund(key, asked, scenario)
        kept = await self._ledger.keep_refund(refund, Decimal(charge.amount))
        if kept is None:
            raise Refusal(422, f"of {charge.amount} not so much is left", "amount")
        self._calls.pop(key, None)
        if kept == refund and scenario == "refund_lost_answer":
            request.scope["drop_connection"]()
            return await _client_gone(request.receive)
        return _refund_answer(await self._as_it_is_now(kept))

    async def refund_outcome(self, request: Request) -> Response:
        """Tell what became of a refund's key."""
        self._let_in(request)
        kept = self._ledger.find_refund(request.path_params["key"])
        if kept is None:
            raise Refusal(404, "no refund has this key", "key")
        return _refund_answer(await self._as_it_is_now(kept), 200)

    async def books(self, request: Request) -> Response:
        """List the charges or refunds of a time that moved money, the oldest first, by pages."""
        self._let_in(request)
        kind = request.path_params["kind"]
        if kind not in ("charges", "refunds"):
            raise Refusal(404, "the books are of charges and refunds", "kind")
        query = _checked(lambda: BooksQuery.model_validate(dict(request.query_params)))
        page = self._ledger.books(kind, _time(query.since), _time(query.until), query.after)
        return JSONResponse(page)

    async def _as_it_is_now(self, refund: Refund) -> Refund:
        """Return the refund, given back now if it was asked about often enough."""
        if refund.status != "pending":
            return refund
        self._calls[refund.id] += 1
        if self._calls[refund.id] <= _LATE_CALLS:
            return refund
        await self._ledger.complete_refund(refund.key)
        return replace(refund, status="succeeded")

    async def faults(self, request: Request) -> Response:
        """Show the faults; a POST first changes those that its body names, the others stay."""
        self._let_in(request)
        if request.method == "POST":
            changed = _read(Faults, await request.body()).model_dump(exclude_unset=True)
            self._faults = self._faults.model_copy(update=changed)
        return JSONResponse(self._faults.model_dump(by_alias=True))

    async def alive(self, _request: Request) -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "ok"})

    def _let_in(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if self._api_key and not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            message = "the API key is missing or wrong"
            raise Refusal(401, message, "Authorization", WWW_Authenticate="Bearer")

    def _fail_on_purpose(self) -> None:
        left = self._faults.fail_next_charges
        if left > 0:
            self._faults = self._faults.model_copy(update={"fail_next_charges": left - 1})
        if left > 0 or random.random() < self._faults.fault_rate:  # noqa: S311 - not a secret
            raise Refusal(503, "the gateway is down, as its faults are set")

    def _fail_at_first(self, key: str, scenario: str) -> None:
        status, times = _FAILURES.get(scenario, (0, 0))
        self._calls[key] += 1
        if self._calls[key] <= times:
            raise Refusal(status, f"the gateway takes nothing, as {scenario} asks", Retry_After="1")


def _read(model: type[M], body: bytes) -> M:
    """Read a JSON body. Raises Refusal: 400 if it is no JSON, 422 if it is not as it must be."""
    return _checked(lambda: model.model_validate_json(body))


def _checked(read: Callable[[], M]) -> M:
    try:
        return read()
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        status = 400 if fault["type"] == "json_invalid" else 422
        field = ".".join(str(part) for part in fault["loc"])
        raise Refusal(status, fault["msg"], field or None) from None


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    # Beyond ASCII a header has no agreed encoding, so the key could not be asked about later.
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise Refusal(400, "must be 1 to 255 printable ASCII characters", "Idempotency-Key")
    return key


def _decide(key: str, asked: ChargeRequest, scenario: str) -> Charge:
    declined = scenario == "tok_decline" or scenario.startswith("tok_decline_")
    reason = scenario.removeprefix("tok_decline").removeprefix("_") or "card_declined"
    refunds = scenario.removeprefix("tok_")
    told = f"{refunds}_" if refunds.removeprefix("refund_") in _OF_REFUNDS else ""
    return Charge(
        key=key,
        id=f"ch_{told}{uuid4().hex}",
        amount=asked.amount,
        currency=asked.currency,
        method=asked.method,
        status="declined" if declined else "succeeded",
        decline_reason=reason if declined else None,
        created_at=_time(datetime.now(UTC)),
    )


def _scenario_of(charge: Charge) -> str:
    """Return how refunds of a charge go."""
    match = _CHARGE_ID.fullmatch(charge.id)
    return (match and match[1]) or ""


def _decide_refund(key: str, asked: RefundRequest, scenario: str) -> Refund:
    declined = scenario == "refund_decline"
    return Refund(
        key=key,
        id=f"re_{uuid4().hex}",
        charge_id=asked.charge_id,
        amount=asked.amount,
        currency=asked.currency,
        status="declined" if declined else "pending" if scenario == "refund_late" else "succeeded",
        decline_reason="refund_declined" if declined else None,
        created_at=_time(datetime.now(UTC)),
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _answer(charge: Charge, status: int | None = None, *, replayed: bool = False) -> Response:
    """Return the charge as a client sees it, by default as the call that made it did."""
    made = 201 if charge.status == "succeeded" else 402
    return _shown(charge, status or made, replayed=replayed)


def _refund_answer(
    refund: Refund, status: int | None = None, *, replayed: bool = False
) -> Response:
    """Return the refund as a client sees it, by default as the call that made it did."""
    made = {"succeeded": 201, "pending": 202, "declined": 402}[refund.status]
    return _shown(refund, status or made, replayed=replayed)


def _shown(entry: Charge | Refund, status: int, *, replayed: bool) -> Response:
    shown = {to_camel(name): getattr(entry, name) for name in entry.__slots__}
    if entry.decline_reason is None:
        del shown["declineReason"]
    headers = {"Idempotent-Replayed": "true"} if replayed else None
    return JSONResponse(shown, status, headers)


async def _client_gone(receive: Receive) -> Response:
    """Wait until nobody is there for an answer, and return one for nobody."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return Response()


def _refused(_request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)  # Starlette's handlers are typed for any exception
    fault = {"message": refusal.detail, "field": getattr(refusal, "field", None)}
    return JSONResponse({"error": fault}, refusal.status_code, refusal.headers)


def _ledger_failed(request: Request, error: Exception) -> Response:
    _log.error("the ledger failed: %s", error)
    return _refused(request, Refusal(503, "the ledger failed"))


class DroppableConnection(HttpToolsProtocol):
    """A connection that the application may drop: `scope["drop_connection"]()`.

    ASGI knows only answers, and half an answer is not the same to a client as none.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give every request on this connection the means to drop it."""
        super().connection_made(transport)
        application = self.app

        async def droppable(scope: Any, receive: Any, send: Any) -> None:
            scope["drop_connection"] = transport.abort
            try:
                await application(scope, receive, send)
            except asyncio.CancelledError:  # the server ends, and this call took too long
                transport.abort()
                self.cycle.disconnected = True  # no time is left to hear it from the transport

        self.app = droppable


def main() -> None:
    """Serve until SIGTERM or SIGINT; a mistake on the command line ends it with one line."""
    parser = argparse.ArgumentParser(prog="python -m orderflow.sandbox.gateway")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--ledger", type=Path, required=True, help="the SQLite file of charges")
    parser.add_argument("--latency-ms", type=int, default=0, help="wait before each charge")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of charges that fail")
    parser.add_argument("--api-key", help="when set, callers must send it as a Bearer token")
    options = parser.parse_args()
    # uvicorn takes the signals while it serves and raises them again at its end: that is no fault.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    configure_logs("console", "info")
    try:
        faults = Faults(latency_ms=options.latency_ms, fault_rate=options.fault_rate)
    except ValidationError as error:
        parser.error("; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors()))
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error}")
    try:
        ledger = Ledger(options.ledger)
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"cannot use the ledger {options.ledger}: {error}")
    config = uvicorn.Config(
        Gateway(ledger, faults, options.api_key).app(),
        http=DroppableConnection,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        # A charge with tok_hang would hold up the end for as long as its client waits.
        timeout_graceful_shutdown=1,
    )
    _log.info("gateway on http://%s:%d", *listener.getsockname()[:2])
    with closing(ledger):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
