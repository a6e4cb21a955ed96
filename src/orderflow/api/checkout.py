"""POST /checkout: read the request strictly, place the order, answer 202."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orderflow.api.faults import JSON, MAX_FAULTS, Fault, Location, faults_of, json_pointer
from orderflow.api.problems import Kind, Problem, problem_of
from orderflow.api.state import State, state_of
from orderflow.checkout import Checkout, IdempotencyKey, place_order
from orderflow.errors import OutOfStock, UnknownProducts
from orderflow.settings import Settings

MAX_KEY = 255

_JSON_TYPE = re.compile(r"application/(json|[^\s/;]+\+json)")
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
    checkout = await _read_checkout(request)
    try:
        receipt = await place_order(
            checkout, user.id, key, db=resources.db, queues=resources.queues
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
            raise _invalid_key("required", "This shop takes no checkout without one.")
        return None
    if len(given) > 1:
        raise _invalid_key("once", "The header may be sent only once.")
    key = given[0].strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise _invalid_key(
                "structured-field-string", 'A quoted key ends with its quote; \\ and " are escaped.'
            )
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 1 <= len(key) <= MAX_KEY:
        raise _invalid_key(f"length 1..{MAX_KEY}", f"The key has 1 to {MAX_KEY} characters.")
    if not _PRINTABLE.fullmatch(key):
        raise _invalid_key("printable-ascii", "The key has printable ASCII characters only.")
    return IdempotencyKey(key, settings.idempotency_ttl_s)


def _invalid_key(rule: str, detail: str) -> Problem:
    return Problem(
        Kind.INVALID_HEADER,
        f"Idempotency-Key: {detail}",
        faults=[Fault("Idempotency-Key", rule, detail)],
    )


async def _read_checkout(request: Request) -> Checkout:
    """Read the body. Raises Problem that tells all of its faults at once."""
    _check_media_type(request.headers.get("content-type", ""))
    body = await _read_body(request.receive)
    try:
        checkout = Checkout.model_validate_json(body)
    except ValidationError as error:
        raise _invalid_body(error) from None
    _check_names_are_unique(body)
    return checkout


async def _read_body(receive: Receive) -> bytes:
    """Read the body. Starlette's own way, a generator of chunks, costs as much as all the rest."""
    chunks = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


def _check_media_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if not _JSON_TYPE.fullmatch(media_type):
        detail = "Send `Content-Type: application/json`."
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE,
            detail,
            faults=[Fault("Content-Type", "application/json", detail)],
            headers={"Accept": "application/json"},
        )


def _invalid_body(error: ValidationError) -> Problem:
    faults = faults_of(error, json_pointer)
    if faults[0].rule == JSON:
        return Problem(Kind.NOT_JSON, faults[0].detail, faults=faults)
    count = error.error_count()
    detail = "1 part is not valid." if count == 1 else f"{count} parts are not valid."
    if count > len(faults):
        detail += f" The first {len(faults)} are named."
    return Problem(Kind.INVALID_BODY, detail, faults=faults)


class _Members(list[tuple[str, Any]]):
    """An object as it was written, with the names that it has twice."""


def _check_names_are_unique(body: bytes) -> None:
    """Refuse an object that names a member twice: readers differ in which of the two they take."""
    unique = True

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal unique
        unique = unique and len(dict(members)) == len(members)

    json.loads(body, object_pairs_hook=look)
    if unique:
        return
    places = islice(_repeated(json.loads(body, object_pairs_hook=_Members)), MAX_FAULTS)
    faults = [Fault(json_pointer(place), "once", "Named twice") for place in places]
    names = ", ".join(fault.field for fault in faults)
    raise Problem(Kind.NOT_JSON, f"Named twice: {names}.", faults=faults)


def _repeated(value: Any, place: Location = ()) -> Iterator[Location]:
    """Give the place of each name that an object has twice."""
    members = value if isinstance(value, _Members) else []
    names = Counter(name for name, _ in members)
    yield from ((*place, name) for name, times in names.items() if times > 1)
    for name, inner in members or (enumerate(value) if isinstance(value, list) else ()):
        yield from _repeated(inner, (*place, name))
