"""A shop's backend on FastAPI: takes carts, and lets customers follow what they ordered.

pip install fastapi
export ORDERS_URL=http://127.0.0.1:8000 JWT_SECRET=…
uvicorn --app-dir examples fastapi_shop:app --port 8080
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import jwt
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from orderflow.client import Orders, Problem, Unanswered

URL = os.environ.get("ORDERS_URL", "http://127.0.0.1:8000")
SECRET = os.environ["JWT_SECRET"]


class Cart(BaseModel):
    """What the browser sends: the token is the gateway's script's, never a card's number."""

    items: dict[str, int]
    payment_token: str
    email: str


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Keep one pool of connections for all customers; of each there is only a token beside."""
    async with httpx.AsyncClient() as http:
        yield {"http": http}


app = FastAPI(lifespan=lifespan)


def orders_of(request: Request, x_customer: Annotated[str, Header()]) -> Orders:
    """Return the orders of who is asking. The header stands for your own login."""

    def token() -> str:
        # Asked for at each try: a stream ends with its token, and goes on with the next one.
        return jwt.encode({"sub": x_customer, "exp": int(time.time()) + 900}, SECRET)

    return Orders(URL, token, http=request.state.http)


MyOrders = Annotated[Orders, Depends(orders_of)]


@app.post("/carts/{cart_id}/order", status_code=202)
async def place(cart_id: str, cart: Cart, orders: MyOrders) -> dict[str, str]:
    """Order a cart. However often the button is pressed, a cart becomes one order."""
    receipt = await orders.checkout(
        items=cart.items,
        payment_method="card",
        payment_token=cart.payment_token,
        email=cart.email,
        idempotency_key=f"cart-{cart_id}",
    )
    return {"order": str(receipt.order_id), "total": f"{receipt.total} {receipt.currency}"}


@app.get("/orders/{order_id}/live")
async def follow(order_id: str, orders: MyOrders) -> StreamingResponse:
    """Tell the browser's EventSource how the order goes, which cannot send a token itself."""
    # Asked here, since a stream that has begun cannot be answered 404 any more.
    await orders.order(order_id)

    async def lines() -> AsyncIterator[str]:
        async for now in orders.events(order_id):
            yield f"data: {now.status}\n\n"
        # Or the browser would come again for ever.
        yield "event: end\ndata:\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.exception_handler(Problem)
async def refused(_request: Request, problem: Problem) -> JSONResponse:
    """Tell the customer what they can mend; all else is between the shop and its engineers."""
    if problem.status not in {404, 409, 422}:
        return JSONResponse({"error": "Something went wrong."}, 502)
    return JSONResponse({"error": problem.detail, "kind": problem.kind}, problem.status)


@app.exception_handler(Unanswered)
async def unanswered(_request: Request, _error: Unanswered) -> JSONResponse:
    """Whether the order was placed is not known. The cart is its key, so again is safe."""
    return JSONResponse({"error": "Please try again."}, 503, {"Retry-After": "5"})
