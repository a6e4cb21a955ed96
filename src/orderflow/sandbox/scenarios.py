"""How the sandbox gateway misbehaves: as the token of a charge says, and as its faults are set.

The `token` of a charge says how it goes. Calls with a key are counted in memory:

| token                  | what happens                                                         |
|------------------------|----------------------------------------------------------------------|
| null, `tok_approve`    | approved, as is any token that is not in this table                  |
| `tok_decline`          | declined with `card_declined`                                        |
| `tok_decline_<reason>` | declined with that reason: `tok_decline_insufficient_funds`          |
| `tok_slow`             | charged at once, answered after 3 s                                  |
| `tok_503`              | 503 every time, not charged                                          |
| `tok_503_twice`        | 503 for the first two calls with a key, then approved                |
| `tok_rate_limit`       | 429 with Retry-After for the first call with a key, then approved    |
| `tok_lost_answer`      | charged, then the connection drops; later calls get the first answer |
| `tok_hang`             | no answer for as long as the client waits, not charged               |

A charge whose token begins with `tok_refund_` is approved, and says how its refunds go:

| token                    | what happens to a refund                                           |
|--------------------------|--------------------------------------------------------------------|
| `tok_refund_decline`     | declined with `refund_declined`                                    |
| `tok_refund_503`         | 503 every time, not given back                                     |
| `tok_refund_503_twice`   | 503 for the first two calls with a key, then given back            |
| `tok_refund_lost_answer` | given back, then the connection drops; then the first answer       |
| `tok_refund_late`        | pending for the first two calls with a key, then given back        |
"""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from orderflow.sandbox.gateway_requests import ChargeRequest, RefundRequest, Refusal
from orderflow.sandbox.ledger import Charge, Refund, written

#: Tokens that fail at first: the status, and for how many calls with one key.
_FAILURES = {
    "tok_503": (503, 10**9),
    "tok_503_twice": (503, 2),
    "tok_rate_limit": (429, 1),
    "refund_503": (503, 10**9),
    "refund_503_twice": (503, 2),
}
#: The scenarios of refunds. The id of a charge tells its own, so that it outlives this process.
_OF_REFUNDS = ("decline", "503", "503_twice", "lost_answer", "late")
_CHARGE_ID = re.compile(rf"ch_(?:(refund_(?:{'|'.join(_OF_REFUNDS)}))_)?[0-9a-f]{{32}}")
#: Calls that find a late refund pending.
_LATE_CALLS = 2


class Faults(BaseModel):
    """What goes wrong on purpose with POST /charges, whatever the token."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )

    fail_next_charges: int = Field(default=0, ge=0, le=1_000_000_000)
    fault_rate: float = Field(default=0.0, ge=0, le=1)
    latency_ms: int = Field(default=0, ge=0, le=600_000)


class Misbehaviour:
    """What goes wrong in one process of the gateway: its faults, and how often each key came."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._calls: Counter[str] = Counter()

    def change(self, changed: Faults) -> None:
        """Take over the faults that `changed` was given, and leave the others."""
        self.faults = self.faults.model_copy(update=changed.model_dump(exclude_unset=True))

    def fail_on_purpose(self) -> None:
        """Fail a charge as the faults are set. Raises Refusal."""
        left = self.faults.fail_next_charges
        if left > 0:
            self.faults = self.faults.model_copy(update={"fail_next_charges": left - 1})
        if left > 0 or random.random() < self.faults.fault_rate:  # noqa: S311 - not a secret
            raise Refusal(503, "the gateway is down, as its faults are set")

    def fail_at_first(self, key: str, scenario: str) -> None:
        """Count a call with a key, and fail it if its scenario says so. Raises Refusal."""
        status, times = _FAILURES.get(scenario, (0, 0))
        self._calls[key] += 1
        if self._calls[key] <= times:
            raise Refusal(status, f"the gateway takes nothing, as {scenario} asks", Retry_After="1")

    def forget(self, key: str) -> None:
        """Count no more calls with a key: it has its outcome."""
        self._calls.pop(key, None)

    def stays_pending(self, refund: Refund) -> bool:
        """Say whether a late refund is pending still when it is asked about this time."""
        self._calls[refund.id] += 1
        return self._calls[refund.id] <= _LATE_CALLS


def decide(key: str, asked: ChargeRequest, scenario: str) -> Charge:
    """Return the outcome of a charge."""
    declined = scenario == "tok_decline" or scenario.startswith("tok_decline_")
    reason = scenario.removeprefix("tok_decline").removeprefix("_") or "card_declined"
    refunds = scenario.removeprefix("tok_")
    told = f"{refunds}_" if refunds.removeprefix("refund_") in _OF_REFUNDS else ""
    return Charge(
        key=key,
        id=f"ch_{told}{uuid4().hex}",
        amount=asked.amount,
        currency=asked.currency,
        method=asked.method,
        status="declined" if declined else "succeeded",
        decline_reason=reason if declined else None,
        created_at=written(datetime.now(UTC)),
    )


def scenario_of(charge: Charge) -> str:
    """Return how refunds of a charge go."""
    match = _CHARGE_ID.fullmatch(charge.id)
    return (match and match[1]) or ""


def decide_refund(key: str, asked: RefundRequest, scenario: str) -> Refund:
    """Return the outcome of a refund."""
    declined = scenario == "refund_decline"
    return Refund(
        key=key,
        id=f"re_{uuid4().hex}",
        charge_id=asked.charge_id,
        amount=asked.amount,
        currency=asked.currency,
        status="declined" if declined else "pending" if scenario == "refund_late" else "succeeded",
        decline_reason="refund_declined" if declined else None,
        created_at=written(datetime.now(UTC)),
    )
