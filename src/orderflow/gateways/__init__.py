"""Payment gateways: what a charge is, what may come of it, and the adapters that make one."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from orderflow.contract import PaymentMethod


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge to make. `key` is the idempotency key: the gateway takes money for it once."""

    key: str
    amount: Decimal
    currency: str
    method: PaymentMethod
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Approved:
    """The money is taken."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The gateway said no, for good."""

    reason: str


Outcome = Approved | Declined


class Gateway(Protocol):
    """Takes money.

    An outcome is a value. No outcome is GatewayUnavailable: the caller asks again later with the
    same key, and never assumes either way. GatewayRefused means that the request itself is wrong.
    """

    async def charge(self, charge: Charge) -> Outcome:
        """Take the money, or return what came of this key before."""

    async def find(self, key: str) -> Outcome | None:
        """Return what came of the charge with this key, or None if there was none."""
