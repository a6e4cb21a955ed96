"""Payment gateways: charges, refunds, what may come of them, and the adapters that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
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


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """No money is taken yet: the customer or the bank has to act, and the gateway will tell.

    With `client_secret` the customer's browser goes on at the gateway. It is a secret of the two.
    """

    transaction_id: str
    client_secret: str = field(repr=False)


#: What a gateway says of a charge: how it ended, or that it waits.
Reply = Outcome | ActionRequired


@dataclass(frozen=True, slots=True)
class Refund:
    """Money to give back, of one charge.

    `key` is the idempotency key: the gateway gives it back once. `charge_key` and
    `transaction_id` are what we and the gateway call the charge.
    """

    key: str
    charge_key: str
    transaction_id: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """The money is given back."""

    refund_id: str


@dataclass(frozen=True, slots=True)
class RefundPending:
    """The gateway will give it back, or find that it cannot: it is asked again later."""

    refund_id: str


RefundOutcome = Refunded | RefundPending | Declined


class EntryKind(StrEnum):
    """What a gateway's books tell of."""

    CHARGE = "charge"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Entry:
    """Money that moved, as the gateway's books have it: nothing declined, nothing pending.

    `id` is the gateway's name for it, and `charge_id` that of its charge: the same for a charge.
    `key` is the one it was asked for with, or None where it was made by other means.
    """

    kind: EntryKind
    id: str
    charge_id: str
    key: str | None
    amount: Decimal
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the books; `after` gets the next one, and is None at the end."""

    entries: Sequence[Entry]
    after: str | None


@dataclass(frozen=True, slots=True)
class GatewayEvent:
    """What a gateway tells by itself, once its signature was checked.

    `id` is the gateway's name for it: it may come twice. `key` is that of the charge it is about,
    None where it is about none of ours. `paid` is there where it says that the money was taken, and
    is final. Anything else it says may be old news: the gateway is asked.
    """

    id: str
    type: str
    key: str | None
    paid: Approved | None
    happened_at: datetime


class Gateway(Protocol):
    """Takes money, and gives it back.

    An outcome is a value. No outcome is GatewayUnavailable: the caller asks again later with the
    same key, and never assumes either way. GatewayRefused means that the request itself is wrong.
    """

    async def charge(self, charge: Charge) -> Reply:
        """Take the money, or return what came of this key before."""

    async def find(self, charge: Charge) -> Reply | None:
        """Return what came of the charge with this key, or None if there was none.

        No money is taken. All of the charge but its token is what it was asked for with.
        """

    async def cancel(self, charge: Charge) -> Outcome | None:
        """See to it that no money comes of this key any more, as far as the gateway can.

        Returns the outcome that the charge had before, or None where it had none: it has none now.
        A charge that waited is over at the gateway; one that is on its way there is not.
        """

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, or return what came of this key before."""

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return what came of the refund with this key, or None if there was none.

        By the key, for a gateway that looks refunds up; by the charge, for one that lists them.
        """

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        """Return a page of the books: what was made from `since` on and before `until`."""
