"""POST /checkout: read the request strictly, place the order, answer 202."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from orderflow.api.idempotency_key import read_idempotency_key
from orderflow.api.languages import read_languages
from orderflow.api.problems import problem_of
from orderflow.api.reading import read_body
from orderflow.api.state import State, state_of
from orderflow.checkout import place_order
from orderflow.checkout_body import Checkout
from orderflow.errors import OutOfStock, UnknownProducts


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
