"""The mail that tells how an order was paid, to be read where it was ordered."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from orderflow.api.orders import find_order
from orderflow.api.problems import Kind, Problem
from orderflow.api.state import state_of
from orderflow.contract import JobName
from orderflow.errors import OrderNotFound
from orderflow.orders import CANCELLED, OPEN_ORDER, Order, OrderStatus
from orderflow.senders import Channel


async def get_mail(request: Request) -> Response:
    """Answer the mail as text. Raises OrderNotFound, or Problem where nothing is told yet."""
    state = state_of(request)
    user = await state.tokens.user(request.headers)
    asked = request.path_params["order_id"]
    order = await find_order(asked, db=state.resources.db)
    if order.user_id != user.id or order.email is None:
        raise OrderNotFound(order_id=asked)
    mail = state.resources.templates.render(_kind(order), Channel.EMAIL, order, order.email)
    return PlainTextResponse(f"To: {mail.recipient}\nSubject: {mail.subject}\n\n{mail.text}\n")


def _kind(order: Order) -> JobName:
    if order.status in OPEN_ORDER:
        raise Problem(Kind.NOT_FOUND, "The customer is told once the payment has its outcome.")
    if order.status is not OrderStatus.CANCELLED:
        return JobName.ORDER_CONFIRMATION
    if order.decline_reason in (None, CANCELLED):
        raise Problem(Kind.NOT_FOUND, "Who cancels an order is told so, and not of its payment.")
    return JobName.PAYMENT_FAILED
