"""Amounts as Stripe counts them: whole numbers of a currency's smallest unit.

The rules are those of https://docs.stripe.com/currencies (minor units, zero-decimal currencies,
three-decimal currencies, special cases). The special cases win over the list of zero-decimal ones,
which names the Ugandan shilling too.
"""

from __future__ import annotations

from decimal import Decimal

from orderflow.errors import GatewayRefused

#: One unit of these has no smaller one.
_ZERO_DECIMAL = frozenset(
    "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905
)
#: A thousand of the smallest are one. The last digit must be 0, as two decimals have it.
_THREE_DECIMAL = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
#: Counted in hundredths, and yet whole amounts only.
_WHOLE_HUNDREDS = frozenset({"ISK", "UGX"})


def to_minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount of two decimals at most as Stripe takes it.

    Raises GatewayRefused for a fraction of a currency that has none.
    """
    is_whole = amount == amount.to_integral_value()
    if currency in _ZERO_DECIMAL | _WHOLE_HUNDREDS and not is_whole:
        raise GatewayRefused(reason=f"{amount} {currency} is a fraction, and {currency} has none")
    return int(amount * _smallest_in_one(currency))


def from_minor_units(units: int, currency: str) -> Decimal:
    """Return what Stripe tells of as an amount."""
    return Decimal(units) / _smallest_in_one(currency)


def _smallest_in_one(currency: str) -> int:
    if currency in _ZERO_DECIMAL:
        return 1
    return 1_000 if currency in _THREE_DECIMAL else 100
