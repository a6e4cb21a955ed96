"""What a checkout may ask for: the body of POST /checkout, and the rules of each of its fields."""

from __future__ import annotations

import re
from typing import Annotated

from email_validator import SPECIAL_USE_DOMAIN_NAMES
from pydantic import (
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel

from orderflow.contract import PaymentMethod

#: Text of a customer: PostgreSQL keeps no NUL, and no line of ours wants a control character.
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=NO_CONTROL_CHARACTERS)
]
Sku = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]

#: The addresses that nearly everybody has. Any other is the library's to judge, at twenty times
#: the cost: quoted or international ones, and those at names that the Internet does not have.
_PLAIN_EMAIL = re.compile(
    r"(?=.{6,254}\Z)([a-z0-9_+-]{1,64}|(?=[^@]{1,64}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)+)"
    r"@((?:[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}(?<!-)\.)+[a-z]{2,63})",
    re.IGNORECASE | re.ASCII,
)
_NO_MAIL = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES)


def _check_email(given: object, full_check: ValidatorFunctionWrapHandler) -> str:
    """Return an address as `email_validator` normalizes it: its domain in small letters."""
    plain = _PLAIN_EMAIL.fullmatch(given) if isinstance(given, str) else None
    if plain is None:
        return str(full_check(given))
    domain = plain[2].lower()
    if f".{domain}".endswith(_NO_MAIL):
        return str(full_check(given))
    return f"{plain[1]}@{domain}"


Email = Annotated[EmailStr, WrapValidator(_check_email)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class CheckoutItem(_Body):
    """What is bought, and how many of it. Prices come from the shop, never from the client."""

    sku: Sku
    quantity: int = Field(ge=1, le=1_000, strict=True)


class Contact(_Body):
    """Where the customer is told how the order went."""

    email: Email
    phone: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")] | None = Field(
        default=None, description="E.164, as +4915112345678"
    )
    # Left out where it is not given, as it was before there was one: or a request that is sent
    # again after a deploy would not be the same to its idempotency key.
    language: (
        Annotated[
            str,
            StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$"),
        ]
        | None
    ) = Field(
        default=None,
        description="A language tag, as de or de-AT; it goes before Accept-Language",
        exclude_if=lambda given: given is None,
    )


class Address(_Body):
    """Where the order goes."""

    name: Line
    line1: Line
    line2: Line | None = None
    postal_code: Annotated[
        str, StringConstraints(min_length=1, max_length=20, pattern=NO_CONTROL_CHARACTERS)
    ]
    city: Line
    region: Line | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(
        description="ISO 3166-1 alpha-2"
    )


class Checkout(_Body):
    """The body of POST /checkout."""

    items: list[CheckoutItem] = Field(min_length=1, max_length=100)
    payment_method: PaymentMethod
    payment_token: (
        Annotated[
            str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL_CHARACTERS)
        ]
        | None
    ) = Field(default=None, repr=False)
    contact: Contact
    shipping_address: Address | None = None

    def quantities(self) -> dict[str, int]:
        """Return how many of each sku are bought, in the order they were named first."""
        quantities: dict[str, int] = {}
        for item in self.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        return quantities
