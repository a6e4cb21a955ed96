"""POST /checkout: read the request strictly, place the order, answer 202."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orderflow.api.faults import Fault
from orderflow.api.languages import read_languages
from orderflow.api.problems import Kind, Problem, problem_of
from orderflow.api.reading import read_body
from orderflow.api.state import State, state_of
from orderflow.checkout import Checkout, IdempotencyKey, place_order
from orderflow.errors import OutOfStock, UnknownProducts
from orderflow.settings import Settings

MAX_KEY = 255

#: A structured field string (RFC 9651): only a quote and a backslash may be, and must be, escaped.
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


class PostCheckout:
    """Place an order for the caller, or answer again what the same request was answered before.

    An ASGI app and not a function: what Starlette wraps around those costs more than routing,
    and has nothing to do here.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Raises what the middleware answers as a problem."""
        request = Request(scope, receive)
        state = state_of(request)
        if request.client is not None:
            state.per_address.count(request.client.host)
        with state.checkouts.one():
            await state.backlog.check()
            response = await _answer_checkout(request, state)
        await response(scope, receive, send)


async def _answer_checkout(request: Request, state: State) -> Response:
    resources = state.resources
    user = await state.tokens.user(request.headers)
    state.per_user.count(user.id)
    key = read_idempotency_key(request.headers, resources.settings)
    checkout = await read_body(request, Checkout)
    try:
        receipt = await place_order(
            checkout,
            user.id,
            key,
            db=resources.db,
            queues=resources.queues,
            languages=read_languages(request.headers.get("accept-language", "")),
        )
    except (UnknownProducts, OutOfStock) as error:
        raise problem_of(error, checkout) from error
    headers = {"Location": f"/orders/{receipt.order_id}"}
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(receipt.to_json(), 202, headers)


def read_idempotency_key(headers: Headers, settings: Settings) -> IdempotencyKey | None:
    """Return the request's Idempotency-Key, if it has one; quoted or bare it is the same key.

    Raises Problem if it is not usable, or missing where one is required.
    """
    given = headers.getlist("idempotency-key")
    if not given:
        if settings.idempotency_key_required:
            raise invalid_key("required", "This shop takes no checkout without one.")
        return None
    if len(given) > 1:
        raise invalid_key("once", "The header may be sent only once.")
    key = given[0].strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise invalid_key(
                "structured-field-string", 'A quoted key ends with its quote; \\ and " are escaped.'
            )
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY:
        raise invalid_key(f"length 1..{MAX_KEY}", f"The key has 1 to {MAX_KEY} characters.")
    if not _PRINTABLE.fullmatch(key):
        raise invalid_key("printable-ascii", "The key has printable ASCII characters only.")
    return IdempotencyKey(key, settings.idempotency_ttl_s)


def invalid_key(rule: str, detail: str) -> Problem:
    """Return the problem of a request whose Idempotency-Key breaks a rule."""
    return Problem(
        Kind.INVALID_HEADER,
        f"Idempotency-Key: {detail}",
        faults=[Fault("Idempotency-Key", rule, detail)],
    )
