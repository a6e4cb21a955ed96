"""What the sandbox gateway is asked over HTTP: bodies and queries, and how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

M = TypeVar("M", bound=BaseModel)

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


class Refusal(HTTPException):
    """An answer without an outcome; `field` names the part of the request at fault."""

    def __init__(self, status: int, message: str, field: str | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(status, message, named or None)
        self.field = field


def read(model: type[M], body: bytes) -> M:
    """Read a JSON body. Raises Refusal: 400 if it is no JSON, 422 if it is not as it must be."""
    return checked(lambda: model.model_validate_json(body))


def checked(read: Callable[[], M]) -> M:
    """Return what `read` makes of it, or say what of it is wrong. Raises Refusal."""
    try:
        return read()
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        status = 400 if fault["type"] == "json_invalid" else 422
        field = ".".join(str(part) for part in fault["loc"])
        raise Refusal(status, fault["msg"], field or None) from None


def idempotency_key(request: Request) -> str:
    """Return the key of a request. Raises Refusal for none, and for one that cannot be one."""
    key = request.headers.get("idempotency-key", "")
    # Beyond ASCII a header has no agreed encoding, so the key could not be asked about later.
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise Refusal(400, "must be 1 to 255 printable ASCII characters", "Idempotency-Key")
    return key
