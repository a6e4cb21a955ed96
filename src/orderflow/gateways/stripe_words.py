"""What Stripe's answers and errors are in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import stripe

from orderflow.errors import GatewayRefused, GatewayUnavailable
from orderflow.gateways import (
    Declined,
    Entry,
    EntryKind,
    Refunded,
    RefundOutcome,
    RefundPending,
)
from orderflow.gateways.minor_units import from_minor_units
from orderflow.orders import EXPIRED

#: The key of the charge, and that of a refund, in the metadata of what is Stripe's.
PAYMENT_KEY = "orderflow_payment"
REFUND_KEY = "orderflow_refund"

#: Stripe's word for an intent that is too far for what is asked.
NOT_IN_THIS_STATUS = "payment_intent_unexpected_state"


class KeptFault(GatewayUnavailable):
    """Stripe answers with the fault that it kept under this key: {reason}."""


class CardDeclined(GatewayRefused):
    """The card is declined: {reason}."""


class RequestRefused(GatewayRefused):
    """Stripe refuses this request: {reason}."""


@contextmanager
def in_our_words() -> Iterator[None]:
    """Raise what Stripe's client raises as errors of ours. Its messages may tell of a customer."""
    try:
        yield
    except TimeoutError as error:
        raise GatewayUnavailable(reason="TimeoutError") from error
    except stripe.CardError as error:
        raise CardDeclined(reason=_reason(error.error, error.code)) from None
    except stripe.InvalidRequestError as error:
        parts = (f"HTTP {error.http_status}", error.code, error.param, error.request_id)
        reason = ", ".join(str(part) for part in parts if part)
        raise RequestRefused(reason=reason, code=error.code, param=error.param) from None
    except stripe.IdempotencyError:
        raise GatewayRefused(reason="its key was used for another request") from None
    except stripe.APIConnectionError as error:
        raise GatewayUnavailable(reason=type(error.__cause__ or error).__name__) from None
    except stripe.StripeError as error:
        kept = (error.headers or {}).get("idempotent-replayed") == "true"
        kind = KeptFault if kept else GatewayUnavailable
        raise kind(reason=f"HTTP {error.http_status}") from None


#: What Stripe asks shops to keep from the customer, who may be a thief: docs.stripe.com/declines.
_NOT_TOLD = frozenset(
    {
        "fraudulent",
        "generic_decline",
        "lost_card",
        "merchant_blacklist",
        "pickup_card",
        "restricted_card",
        "security_violation",
        "stolen_card",
    }
)


def _reason(error: object, code: str | None) -> str:
    """Return why a card was declined, as the customer may know it."""
    why = getattr(error, "decline_code", None) or code or "card_declined"
    return "card_declined" if why in _NOT_TOLD else str(why)


def reason_of(intent: stripe.PaymentIntent) -> str:
    """Return why nothing came of an intent."""
    error = intent.last_payment_error
    if error is not None:
        return _reason(error, error.code)
    # Only the reconciler abandons what nobody paid.
    return EXPIRED if intent.cancellation_reason == "abandoned" else "canceled"


def refund_outcome(refund: stripe.Refund) -> RefundOutcome:
    """Return what came of a refund so far."""
    match refund.status:
        case "succeeded":
            return Refunded(refund.id)
        case "failed" | "canceled":
            return Declined(getattr(refund, "failure_reason", None) or str(refund.status))
    return RefundPending(refund.id)


def charge_entry(charge: stripe.Charge) -> Entry:
    """Return a charge as an entry of the books, under the name of its intent."""
    transaction_id = _id_of(charge.payment_intent) or charge.id
    return Entry(
        kind=EntryKind.CHARGE,
        id=transaction_id,
        charge_id=transaction_id,
        key=key_in(charge.metadata, PAYMENT_KEY),
        amount=from_minor_units(charge.amount_captured, charge.currency.upper()),
        currency=charge.currency.upper(),
        at=datetime.fromtimestamp(charge.created, UTC),
    )


def refund_entry(refund: stripe.Refund) -> Entry:
    """Return a refund as an entry of the books."""
    return Entry(
        kind=EntryKind.REFUND,
        id=refund.id,
        charge_id=_id_of(refund.payment_intent) or _id_of(refund.charge) or refund.id,
        key=key_in(refund.metadata, REFUND_KEY),
        amount=from_minor_units(refund.amount, refund.currency.upper()),
        currency=refund.currency.upper(),
        at=datetime.fromtimestamp(refund.created, UTC),
    )


def _id_of(reference: object) -> str | None:
    """Return the id of what Stripe may have sent as such, or in full."""
    if reference is None or isinstance(reference, str):
        return reference
    return str(getattr(reference, "id", "")) or None


def key_in(metadata: Any, name: str) -> str | None:
    """Return the key that the metadata hold under a name, or None."""
    try:
        key = metadata[name]
    except (KeyError, TypeError):
        return None
    return str(key) or None
