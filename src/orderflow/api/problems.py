"""Errors as clients read them: the one place where an error becomes RFC 9457 problem+json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any
from urllib.parse import quote

import structlog
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orderflow.api.faults import Fault
from orderflow.checkout_body import Checkout
from orderflow.errors import (
    BulkActionEnded,
    BulkActionNotFound,
    DatabaseUnavailable,
    EventUnreadable,
    FailureGroupNotFound,
    IdempotencyKeyReused,
    IllegalTransition,
    InvalidPayload,
    JobIsRunning,
    JobNotFound,
    JobNotInState,
    JobOfSchedule,
    MixedCurrencies,
    NoEventsTaken,
    NothingToRefund,
    OrderflowError,
    OrderNotFound,
    OutOfStock,
    RefundTooLarge,
    TotalTooLarge,
    UnknownJobState,
    UnknownProducts,
    UnknownQueue,
    UserHasOpenOrders,
    WebhookDeliveryNotFound,
    WebhookEndpointNotFound,
    WebhooksNotSetUp,
    WebhookUrlRefused,
)

log = structlog.get_logger(__name__)


class Kind(Enum):
    """Every kind of problem there is: its status and title. The name makes its stable URN."""

    MALFORMED_REQUEST = 400, "The request is not HTTP"
    NOT_JSON = 400, "The body is not JSON"
    INVALID_HEADER = 400, "A header is not valid"
    INVALID_QUERY = 400, "The query is not valid"
    UNAUTHENTICATED = 401, "A valid bearer token is needed"
    FORBIDDEN = 403, "This is for admins only"
    NOT_FOUND = 404, "There is nothing here"
    ORDER_NOT_FOUND = 404, "There is no such order"
    QUEUE_NOT_FOUND = 404, "There is no such queue"
    JOB_NOT_FOUND = 404, "There is no such job"
    JOB_STATE_NOT_FOUND = 404, "There is no such state of a job"
    FAILURE_GROUP_NOT_FOUND = 404, "There is no such group of failures"
    BULK_ACTION_NOT_FOUND = 404, "There is no such bulk action"
    WEBHOOK_ENDPOINT_NOT_FOUND = 404, "There is no such webhook endpoint"
    WEBHOOK_DELIVERY_NOT_FOUND = 404, "There is no such delivery of a webhook"
    METHOD_NOT_ALLOWED = 405, "The method is not allowed here"
    REQUEST_TIMEOUT = 408, "The request took too long to come"
    OUT_OF_STOCK = 409, "A product is out of stock"
    ILLEGAL_TRANSITION = 409, "The order cannot become that from where it is"
    NOTHING_TO_REFUND = 409, "No money was taken that could be given back"
    REFUND_TOO_LARGE = 409, "So much is not left to be given back"
    USER_HAS_OPEN_ORDERS = 409, "Orders of the user are open"
    JOB_IS_RUNNING = 409, "The job is running"
    JOB_NOT_IN_STATE = 409, "The job is not where this can be done to it"
    JOB_OF_SCHEDULE = 409, "The job keeps a schedule going"
    BULK_ACTION_ENDED = 409, "The bulk action has ended"
    BODY_TOO_LARGE = 413, "The body is too large"
    UNSUPPORTED_MEDIA_TYPE = 415, "The body must be JSON"
    INVALID_BODY = 422, "The body is not valid"
    INVALID_JOB_DATA = 422, "Jobs of this name have other data"
    UNKNOWN_PRODUCTS = 422, "The shop does not sell this"
    MIXED_CURRENCIES = 422, "The products have different currencies"
    TOTAL_TOO_LARGE = 422, "The total is too large"
    IDEMPOTENCY_KEY_REUSED = 422, "The Idempotency-Key belongs to another request"
    TOO_MANY_REQUESTS = 429, "Too many checkouts from one caller"
    TOO_MANY_STREAMS_OF_USER = 429, "Too many streams of one user are open"
    HEAD_TOO_LARGE = 431, "The request line and headers are too large"
    INTERNAL_ERROR = 500, "Something went wrong"
    WEBHOOKS_NOT_SET_UP = 503, "Events of the gateway cannot be checked yet"
    DATABASE_UNAVAILABLE = 503, "The database does not answer"
    REDIS_UNAVAILABLE = 503, "The queues cannot be reached"
    TOO_MANY_CHECKOUTS = 503, "More orders are coming in than can be taken now"
    TOO_MANY_CONNECTIONS = 503, "More connections are open than can be held"
    TOO_MANY_STREAMS = 503, "More streams are open than can be held"
    PAYMENTS_BEHIND = 503, "Orders wait too long for their payment"
    SIGNING_KEYS_UNAVAILABLE = 503, "The keys that tokens are checked with cannot be fetched"

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title

    @property
    def label(self) -> str:
        """The last part of the URN."""
        return self.name.lower().replace("_", "-")

    @property
    def urn(self) -> str:
        """The problem's `type`."""
        return f"urn:orderflow:problem:{self.label}"


#: Nothing is wrong with these requests but their moment.
PASSING = frozenset(
    {
        Kind.DATABASE_UNAVAILABLE,
        Kind.REDIS_UNAVAILABLE,
        Kind.TOO_MANY_CHECKOUTS,
        Kind.TOO_MANY_CONNECTIONS,
        Kind.PAYMENTS_BEHIND,
        Kind.TOO_MANY_REQUESTS,
        Kind.TOO_MANY_STREAMS,
        Kind.TOO_MANY_STREAMS_OF_USER,
        Kind.SIGNING_KEYS_UNAVAILABLE,
    }
)


class Problem(Exception):
    """An error as its client will read it. Anything that answers a request may raise one."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **members: str,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = {**({"Retry-After": "1"} if kind in PASSING else {}), **(headers or {})}
        self.members = members

    def to_json(self, path: str) -> dict[str, Any]:
        """Return the body of the answer to a request for `path`."""
        body: dict[str, Any] = {
            "type": self.kind.urn,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": quote(path),
            **self.members,
        }
        if self.faults:
            body["errors"] = [fault.to_json() for fault in self.faults]
        return body


def problem_of(error: Exception, checkout: Checkout | None = None) -> Problem:
    """Return the problem that `error` is to a client.

    With the `checkout` that met it, the problem points at the items that it is about. An error
    that is nobody's fault but ours says nothing of itself.
    """
    match error:
        case Problem():
            return error
        case HTTPException():
            return _of_http(error)
        case UnknownProducts() | OutOfStock():
            return _of_products(error, checkout)
        case OrderflowError():
            return _of_domain(error)
        case RedisError():
            return Problem(Kind.REDIS_UNAVAILABLE, "Try again: Redis does not answer just now.")
    return _internal()


#: What each domain error is to a client: the kind, and the part of the request at fault, if one is.
_DOMAIN: Mapping[type[OrderflowError], tuple[Kind, str | None, str]] = {
    OrderNotFound: (Kind.ORDER_NOT_FOUND, None, ""),
    IllegalTransition: (Kind.ILLEGAL_TRANSITION, None, ""),
    NothingToRefund: (Kind.NOTHING_TO_REFUND, None, ""),
    RefundTooLarge: (Kind.REFUND_TOO_LARGE, "/amount", "money-less-than-equal {left}"),
    UserHasOpenOrders: (Kind.USER_HAS_OPEN_ORDERS, None, ""),
    UnknownQueue: (Kind.QUEUE_NOT_FOUND, "queue", "known-queue"),
    UnknownJobState: (Kind.JOB_STATE_NOT_FOUND, "state", "known-state"),
    JobNotFound: (Kind.JOB_NOT_FOUND, None, ""),
    JobIsRunning: (Kind.JOB_IS_RUNNING, None, ""),
    JobNotInState: (Kind.JOB_NOT_IN_STATE, None, ""),
    JobOfSchedule: (Kind.JOB_OF_SCHEDULE, None, ""),
    FailureGroupNotFound: (Kind.FAILURE_GROUP_NOT_FOUND, None, ""),
    BulkActionNotFound: (Kind.BULK_ACTION_NOT_FOUND, None, ""),
    BulkActionEnded: (Kind.BULK_ACTION_ENDED, None, ""),
    InvalidPayload: (Kind.INVALID_JOB_DATA, "/data", "data-of-the-job"),
    NoEventsTaken: (Kind.NOT_FOUND, None, ""),
    WebhookEndpointNotFound: (Kind.WEBHOOK_ENDPOINT_NOT_FOUND, None, ""),
    WebhookDeliveryNotFound: (Kind.WEBHOOK_DELIVERY_NOT_FOUND, None, ""),
    WebhookUrlRefused: (Kind.INVALID_BODY, "/url", "public-https-url"),
    WebhooksNotSetUp: (Kind.WEBHOOKS_NOT_SET_UP, None, ""),
    EventUnreadable: (Kind.INVALID_BODY, "", "event-of-the-gateway"),
    MixedCurrencies: (Kind.MIXED_CURRENCIES, "/items", "one-currency"),
    TotalTooLarge: (Kind.TOTAL_TOO_LARGE, "/items", "total-less-than-equal {limit}"),
    IdempotencyKeyReused: (Kind.IDEMPOTENCY_KEY_REUSED, "Idempotency-Key", "same-body"),
}


def _of_domain(error: OrderflowError) -> Problem:
    if isinstance(error, DatabaseUnavailable):
        # A commit whose answer was lost may have happened, and why is the operators' matter.
        detail = "Try again. With the same Idempotency-Key a checkout never makes a second order."
        return Problem(Kind.DATABASE_UNAVAILABLE, detail)
    if type(error) not in _DOMAIN:
        return _internal()
    kind, field, rule = _DOMAIN[type(error)]
    detail = str(error)
    faults = [Fault(field, rule.format(**error.fields), detail)] if field else []
    return Problem(kind, detail, faults=faults)


def _of_products(error: UnknownProducts | OutOfStock, checkout: Checkout | None) -> Problem:
    detail = str(error)
    items = list(enumerate(checkout.items)) if checkout else []
    if isinstance(error, OutOfStock):
        faults = [
            Fault(f"/items/{index}/quantity", "in-stock", detail)
            for index, item in items
            if item.sku == error.sku
        ]
        return Problem(Kind.OUT_OF_STOCK, detail, faults=faults, sku=error.sku)
    faults = [
        Fault(f"/items/{index}/sku", "known-product", f"The shop does not sell '{item.sku}'.")
        for index, item in items
        if item.sku in error.skus
    ]
    return Problem(Kind.UNKNOWN_PRODUCTS, detail, faults=faults)


def _of_http(error: HTTPException) -> Problem:
    """Read what the router says: nothing at this path, or not with this method."""
    headers = dict(error.headers or {})
    if error.status_code == Kind.NOT_FOUND.status:
        return Problem(Kind.NOT_FOUND, "No endpoint has this path.", headers=headers)
    if error.status_code == Kind.METHOD_NOT_ALLOWED.status:
        detail = f"Allowed here: {headers.get('Allow', 'nothing')}."
        return Problem(Kind.METHOD_NOT_ALLOWED, detail, headers=headers)
    return _internal()


def _internal() -> Problem:
    return Problem(Kind.INTERNAL_ERROR, "The fault is on our side, and is logged.")


def logged_problem_of(request: Request, error: Exception) -> Problem:
    """Return the problem that `error` is; what operators must know of goes to the log."""
    problem = problem_of(error)
    # Not request.url: it would read the Host header too, which may be any nonsense.
    where = {"method": request.method, "path": request.scope["path"]}
    if problem.kind is Kind.INTERNAL_ERROR:
        log.error("request failed", **where, exc_info=error)
    elif isinstance(error, DatabaseUnavailable):
        log.warning("database unavailable", **where, reason=error.reason)
    elif isinstance(error, RedisError):
        log.warning("redis unavailable", **where, reason=type(error).__name__)
    return problem


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer `error` as a problem; what operators must know of goes to the log."""
    problem = logged_problem_of(request, error)
    return JSONResponse(
        problem.to_json(request.scope["path"]),
        problem.kind.status,
        problem.headers,
        media_type="application/problem+json",
    )


class ProblemAnswers:
    """ASGI middleware: whatever is raised inside is answered as a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; once an answer has begun, an error can only end the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            log.debug("client left before its request was read", path=scope["path"])
        except Exception as error:
            if begun:
                raise
            answer = await answer_error(Request(scope), error)
            await answer(scope, receive, send)
