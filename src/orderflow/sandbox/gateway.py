"""The sandbox's payment gateway: `python -m orderflow.sandbox.gateway`.

It takes no money. What it takes seriously is the ledger: a charge is on disk before it is
answered, so it outlives every crash of orderflow and of the gateway, and can be counted. One
idempotency key is one row, for good; asked again, it gives the first answer again. What goes wrong
on purpose is in scenarios.py.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import logging
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import uvicorn
from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orderflow.logs import configure_logs
from orderflow.sandbox.gateway_requests import (
    BooksQuery,
    ChargeRequest,
    RefundRequest,
    Refusal,
    checked,
    idempotency_key,
    read,
)
from orderflow.sandbox.ledger import Charge, Ledger, Refund, written
from orderflow.sandbox.scenarios import Faults, Misbehaviour, decide, decide_refund, scenario_of

_log = logging.getLogger("orderflow.sandbox.gateway")


class Gateway:
    """The endpoints, over one ledger."""

    def __init__(self, ledger: Ledger, faults: Faults, api_key: str | None) -> None:
        self._ledger = ledger
        self._misbehaviour = Misbehaviour(faults)
        self._api_key = api_key

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
        await asyncio.sleep(self._misbehaviour.faults.latency_ms / 1_000)
        self._misbehaviour.fail_on_purpose()
        key = idempotency_key(request)
        asked = read(ChargeRequest, await request.body())
        scenario = asked.token or "tok_approve"
        kept = self._ledger.find(key)
        if kept is None:
            if scenario == "tok_hang":
                return await _client_gone(request.receive)
            self._misbehaviour.fail_at_first(key, scenario)
            charge = decide(key, asked, scenario)
            kept = await self._ledger.keep(charge)
            if kept == charge:
                self._misbehaviour.forget(key)
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
        key = idempotency_key(request)
        asked = read(RefundRequest, await request.body())
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
        scenario = scenario_of(charge)
        self._misbehaviour.fail_at_first(key, scenario)
        refund = decide_refund(key, asked, scenario)
        kept = await self._ledger.keep_refund(refund, Decimal(charge.amount))
        if kept is None:
            raise Refusal(422, f"of {charge.amount} not so much is left", "amount")
        self._misbehaviour.forget(key)
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
        query = checked(lambda: BooksQuery.model_validate(dict(request.query_params)))
        page = self._ledger.books(kind, written(query.since), written(query.until), query.after)
        return JSONResponse(page)

    async def _as_it_is_now(self, refund: Refund) -> Refund:
        """Return the refund, given back now if it was asked about often enough."""
        if refund.status != "pending" or self._misbehaviour.stays_pending(refund):
            return refund
        await self._ledger.complete_refund(refund.key)
        return replace(refund, status="succeeded")

    async def faults(self, request: Request) -> Response:
        """Show the faults; a POST first changes those that its body names, the others stay."""
        self._let_in(request)
        if request.method == "POST":
            self._misbehaviour.change(read(Faults, await request.body()))
        return JSONResponse(self._misbehaviour.faults.model_dump(by_alias=True))

    async def alive(self, _request: Request) -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "ok"})

    def _let_in(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if self._api_key and not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            message = "the API key is missing or wrong"
            raise Refusal(401, message, "Authorization", WWW_Authenticate="Bearer")


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
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8010, help="default: %(default)s")
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
