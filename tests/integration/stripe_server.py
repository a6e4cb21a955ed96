"""Stripe for tests: localstripe as a process, and before it what Stripe documents and that lacks.

That is idempotency, search by metadata, the books of a time, refunds that take their time and are
never more than was charged, the parameters and error codes of today's API, and faults on demand.
Shapes are those of https://docs.stripe.com/api.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import stripe
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.conftest import wait_until

from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.settings import Settings

API_KEY = "sk_test_of_the_tests"
WEBHOOK_SECRET = "whsec_of_the_tests"

#: localstripe listens on every address, and keeps all in one file: here it does neither.
_RUN = """
import sys
from aiohttp import web
from localstripe import resources, server
resources.Store.dump_to_disk = lambda store: None
web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
#: Parameters that localstripe does not know, and answers 400.
_UNKNOWN = re.compile(r"(allowed_payment_method_types|automatic_payment_methods)\[|cancellation_r")
_INTENTS, _CHARGES, _REFUNDS = "/v1/payment_intents", "/v1/charges", "/v1/refunds"
_ALL = "1000000"
#: localstripe makes these cards anew wherever it meets their names.
VISA, DECLINED = "pm_card_visa", "pm_card_chargeCustomerFail"
#: It asks for 3-D Secure.
CAREFUL = "4000002760003184"


@dataclass
class Fault:
    """What a request whose path ends so meets instead of its answer."""

    path: str
    status: int = 500
    body: dict[str, Any] = field(default_factory=lambda: error("api_error", "down"))
    #: The request is done all the same, and its answer is lost.
    is_lost: bool = False
    times: int = 1


def error(kind: str, code: str | None = None, param: str | None = None, **more: Any) -> Any:
    """Return a body as Stripe has it for an error."""
    return {"error": {"type": kind, "code": code, "param": param, "message": "as asked"} | more}


@dataclass
class Stripe:
    """The server, what it was asked, and what it keeps under idempotency keys."""

    url: str
    behind: str
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    kept: dict[str, tuple[bytes, int, Any]] = field(default_factory=dict)
    in_use: set[str] = field(default_factory=set)
    #: What the search does not find yet.
    is_search_behind: bool = False
    #: How a refund is when it is made.
    refund_status: str = "succeeded"
    _reasons: dict[str, str] = field(default_factory=dict)

    def reset(self) -> None:
        self.faults.clear()
        self.asked.clear()
        self.kept.clear()
        self.is_search_behind = False
        self.refund_status = "succeeded"
        # No test reads in the books of another one.
        self.call("DELETE", "/_config/data")

    def forget_keys(self) -> None:
        """Let a day go by."""
        self.kept.clear()

    def call(self, method: str, path: str, **data: str) -> Any:
        """Ask localstripe itself, as the customer's browser or the dashboard would."""
        request = {"params": data} if method == "GET" else {"data": data}
        answer = httpx.request(
            method,
            f"{self.behind}{path}",
            auth=(API_KEY, ""),
            trust_env=False,
            verify=False,
            **request,
        )
        return answer.raise_for_status().json() if answer.content else None

    def intents(self, key: object) -> list[dict[str, Any]]:
        """Return the intents of a payment, the first first."""
        data = self.call("GET", _INTENTS, limit=_ALL)["data"]
        mine = [one for one in data if one["metadata"].get("orderflow_payment") == str(key)]
        return sorted(mine, key=lambda one: one["created"])

    def intent(self, key: object) -> dict[str, Any]:
        """Return the only intent of a payment."""
        [intent] = self.intents(key)
        return intent

    def refunds(self, intent: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the refunds of an intent."""
        found = self.call("GET", _REFUNDS, payment_intent=intent["id"], limit=_ALL)
        listed: list[dict[str, Any]] = found["data"]
        return listed

    def give_back(self, intent: dict[str, Any], cents: int) -> dict[str, Any]:
        """Give money back as a person does in the dashboard."""
        made: dict[str, Any] = self.call(
            "POST", _REFUNDS, payment_intent=intent["id"], amount=str(cents)
        )
        return made

    def end_refund(self, refund: dict[str, Any], status: str) -> None:
        """Let the bank decide of a refund."""
        self.call("POST", f"{_REFUNDS}/{refund['id']}", status=status)

    def card(self, number: str) -> str:
        """Return the token of a card with this number."""
        made = self.call(
            "POST",
            "/v1/payment_methods",
            type="card",
            **{"card[number]": number, "card[cvc]": "123"},
            **{"card[exp_month]": "12", "card[exp_year]": "2040"},
        )
        token: str = made["id"]
        return token

    def authenticate(self, intent: dict[str, Any], *, success: bool) -> None:
        """Do what the customer does for 3-D Secure."""
        self.call(
            "POST",
            f"{_INTENTS}/{intent['id']}/_authenticate",
            client_secret=intent["client_secret"],
            success=str(success).lower(),
        )

    async def answer(self, request: Request) -> Response:
        path, body = request.url.path, await request.body()
        self.asked.append((request.method, path))
        key = request.headers.get("idempotency-key", "")
        if request.method == "POST" and key in self.kept:
            first, status, answer = self.kept[key]
            if first != body:
                return JSONResponse(error("idempotency_error"), 400)
            return JSONResponse(answer, status, {"Idempotent-Replayed": "true"})
        if key and key in self.in_use:
            return JSONResponse(error("idempotency_error", "idempotency_key_in_use"), 409)
        self.in_use.add(key)
        try:
            return await self._answer_first(request, path, body, key)
        finally:
            self.in_use.discard(key)

    async def _answer_first(self, request: Request, path: str, body: bytes, key: str) -> Response:
        fault = next((one for one in self.faults if path.endswith(one.path)), None)
        if fault is not None:
            fault.times -= 1
            if fault.times == 0:
                self.faults.remove(fault)
        if fault is not None and not fault.is_lost:
            status, answer = fault.status, fault.body
        else:
            status, answer = await self._forward(request, path, body)
        # What was limited, not let in, or never came to Stripe, began nothing.
        if key and status not in {401, 403, 409, 429, 502}:
            self.kept[key] = (body, status, answer)
        if fault is not None and fault.is_lost:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        return JSONResponse(answer, status)

    async def _forward(self, request: Request, path: str, body: bytes) -> tuple[int, Any]:
        given = parse_qsl(body.decode() or request.url.query)
        data = [(name, value) for name, value in given if not _UNKNOWN.match(name)]
        async with httpx.AsyncClient(
            base_url=self.behind, auth=(API_KEY, ""), trust_env=False, verify=False
        ) as client:
            if path == f"{_INTENTS}/search":
                return 200, await self._search(client, dict(data)["query"])
            if path in (_CHARGES, _REFUNDS) and "created[gte]" in dict(data):
                return 200, await _books(client, path, dict(data))
            if path == _REFUNDS and request.method == "POST":
                refusal = await _refuse_refund(client, dict(data))
                if refusal is not None:
                    return 400, refusal
            if path.endswith("/confirm"):
                refusal = await _choose_card(client, path, dict(data).get("payment_method"))
                if refusal is not None:
                    return 400, refusal
                data = []
            reason = dict(given).get("cancellation_reason")
            if request.method == "GET":
                answer = await client.get(path, params=data)
            else:
                form = {"Content-Type": "application/x-www-form-urlencoded"}
                answer = await client.post(path, content=urlencode(data), headers=form)
            said = answer.json()
            if path == _REFUNDS and said.get("status", self.refund_status) != self.refund_status:
                status = {"status": self.refund_status}
                said = (await client.post(f"{path}/{said['id']}", data=status)).json()
        if reason and answer.is_success:
            self._reasons[said["id"]] = reason
        if path.endswith(("/confirm", "/cancel")) and answer.status_code == 400:
            said["error"]["code"] = "payment_intent_unexpected_state"
        if said.get("object") == "payment_intent":
            said["cancellation_reason"] = self._reasons.get(said["id"])
        return answer.status_code, said

    async def _search(self, client: httpx.AsyncClient, query: str) -> Any:
        found = re.fullmatch(r"metadata\['(\w+)'\]:'(.*)'", query)
        assert found, query
        name, value = found[1], re.sub(r"\\(.)", r"\1", found[2])
        data = await _list(client, _INTENTS)
        hits = [one for one in data if one["metadata"].get(name) == value]
        return {
            "object": "search_result",
            "url": f"{_INTENTS}/search",
            "has_more": False,
            "data": [] if self.is_search_behind else hits,
        }


async def _list(client: httpx.AsyncClient, path: str, **wanted: str) -> list[dict[str, Any]]:
    answer = await client.get(path, params={"limit": _ALL} | wanted)
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def _books(client: httpx.AsyncClient, path: str, wanted: dict[str, str]) -> Any:
    """List what was made in a time, the newest first, by pages."""
    since, until = int(wanted["created[gte]"]), int(wanted["created[lt]"])
    found = [one for one in await _list(client, path) if since <= one["created"] < until]
    found.sort(key=lambda one: (one["created"], one["id"]), reverse=True)
    if path == _CHARGES:
        # A charge has the metadata of its intent, and says what it took.
        metadata = {one["id"]: one["metadata"] for one in await _list(client, _INTENTS)}
        for one in found:
            one["metadata"] = metadata.get(one["payment_intent"], {})
            one["amount_captured"] = one["amount"] if one["status"] == "succeeded" else 0
    after = wanted.get("starting_after")
    first = 1 + [one["id"] for one in found].index(after) if after else 0
    last = first + int(wanted["limit"])
    return {
        "object": "list",
        "url": path,
        "has_more": last < len(found),
        "data": found[first:last],
    }


async def _refuse_refund(client: httpx.AsyncClient, wanted: dict[str, str]) -> Any:
    """Refuse to give back more than is left of a charge."""
    intent = (await client.get(f"{_INTENTS}/{wanted['payment_intent']}")).json()
    given = await _list(client, _REFUNDS, payment_intent=intent["id"])
    back = sum(one["amount"] for one in given if one["status"] not in ("failed", "canceled"))
    left = intent["amount"] - back
    if left == 0:
        return error("invalid_request_error", "charge_already_refunded")
    if int(wanted["amount"]) > left:
        return error("invalid_request_error", None, "amount")
    return None


async def _choose_card(client: httpx.AsyncClient, path: str, token: str | None) -> Any:
    """Give the intent its card, which localstripe does not do while it confirms."""
    assert token is not None
    if (await client.get(f"/v1/payment_methods/{token}")).status_code == 404:
        return error("invalid_request_error", "resource_missing", "payment_method")
    await client.post(path.removesuffix("/confirm"), data={"payment_method": token})
    return None


@contextmanager
def run_stripe(folder: Path) -> Iterator[Stripe]:
    """Run both servers, on loopback; leaving stops them."""
    behind, port = free_port(), free_port()
    with (folder / "localstripe.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(behind)], stdout=log, stderr=subprocess.STDOUT
        )
    stripe = Stripe(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{behind}")
    app = Starlette(routes=[Route("/{path:path}", stripe.answer, methods=["GET", "POST"])])
    server = uvicorn.Server(
        # Its own configuration of logs would stay for all tests after this one.
        uvicorn.Config(app, port=port, log_config=None, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, name="stripe")
    thread.start()
    try:
        wait_until(lambda: port_is_taken(behind) and port_is_taken(port), "Stripe")
        yield stripe
    finally:
        server.should_exit = True
        thread.join(20)
        process.terminate()
        process.wait(20)


def at_stripe(settings: Settings, stripe: Stripe) -> Settings:
    """Return the settings of a shop that takes its money by Stripe."""
    changes = {
        "payment_gateway": "stripe",
        "gateway_url": stripe.url,
        "gateway_api_key": API_KEY,
        "gateway_webhook_secret": WEBHOOK_SECRET,
    }
    return Settings(_env_file=None, **settings.model_dump() | changes)


def signed(event: dict[str, Any], at: int, secret: str = WEBHOOK_SECRET) -> tuple[bytes, str]:
    """Return the body of an event and its signature."""
    body = json.dumps(event)
    header = stripe.WebhookSignature.generate_signature_header(body, secret, at)
    return body.encode(), header
