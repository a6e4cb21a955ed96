"""What is to be done about one unsettled order, by its row, its job and the gateway's word. No I/O.

An order that outlived its time is cancelled only if no money can come of it any more. A worker
asks its payment's row before it charges and finds it failed, so what could still take money is a
charge that began before. Hence the order is left alone while its job is active, while the gateway
cannot be asked, and, where a charge was begun, for as long as a worker may be at one after that.
What remains is a machine that slept between the beginning and the charge for longer than that:
`charge.write_outcome` finds the payment failed then, and records a stray charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from orderflow.bull.states import JobState
from orderflow.contract import PaymentMethod
from orderflow.gateways import Approved, Declined, Reply
from orderflow.orders import OPEN_ORDER, PaymentStatus, Row
from orderflow.settings import Settings


class Action(StrEnum):
    """What is to be done about an order."""

    LEAVE = "leave"
    WAIT = "wait"  # something has to be done, but a later run has to do it
    ADD = "add job"
    REPLACE = "replace job"
    RETRY = "retry job"
    WRITE = "write outcome"
    MARK_TOLD = "mark told"
    EXPIRE = "expire"
    REST_AGAIN = "ask later"  # it was asked about, and waits still


class NoWord(StrEnum):
    """Why there is no word of an outcome."""

    NOT_ASKED = "not asked"
    NO_CHARGE = "no charge"
    NO_ANSWER = "no answer"


#: What is known of a payment's outcome besides its row.
Word = Reply | NoWord

#: A payment that waits for its customer is asked about so often, in case an event was lost, and
#: so that one past its time that a bank does not let go of is not asked about in each run.
_ASK_EVERY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about an order, and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """When an order has outlived its time, and how long after its beginning a charge may come."""

    order_ttl: timedelta | None = None
    charge_at_most: timedelta = timedelta(minutes=2)

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Return the rules that the settings make."""
        ttl_s = settings.order_ttl_s
        # A job ends by the first, a process that stands still by the second, and what was sent to
        # the gateway just before by the third.
        charge_at_most_ms = (
            settings.job_timeout_ms + settings.worker_hang_ms + settings.gateway_timeout_ms
        )
        return cls(
            order_ttl=None if ttl_s is None else timedelta(seconds=ttl_s),
            charge_at_most=timedelta(milliseconds=charge_at_most_ms),
        )

    def is_over(self, row: Row) -> bool:
        """Say whether an order has outlived its time."""
        return self.order_ttl is not None and bool(row["age"] > self.order_ttl)

    def may_be_charging(self, row: Row) -> bool:
        """Say whether a worker that began the charge may still be at it."""
        begun = row["payment_status"] == PaymentStatus.PROCESSING
        return begun and bool(row["payment_rest"] <= self.charge_at_most)


def needs_word(row: Row, state: JobState, rules: Rules) -> bool:
    """Say whether the outcome of the payment has to be asked about before a decision."""
    if row["status"] not in OPEN_ORDER or state is JobState.ACTIVE:
        return False
    if _waits_for_customer(row):
        return bool(row["payment_rest"] > _ASK_EVERY)
    unknown = row["payment_status"] == PaymentStatus.PROCESSING and state is not JobState.LIVE
    return unknown or state is JobState.COMPLETED or rules.is_over(row)


def _waits_for_customer(row: Row) -> bool:
    return bool(row["payment_status"] == PaymentStatus.REQUIRES_ACTION)


def can_be_charged(row: Row) -> bool:
    """Say whether the gateway may know of the payment: not of one in cash."""
    return bool(row["method"] != PaymentMethod.CASH)


def decide(row: Row, state: JobState, word: Word, rules: Rules) -> Decision:
    """Say what is to be done about an unsettled order, and why.

    `row` is one of `unsettled_orders`, `state` where the job is that the order needs, and `word`
    what was heard of the outcome, where `needs_word`.
    """
    if row["status"] not in OPEN_ORDER:
        return TO_TELL[state]
    if state is JobState.ACTIVE:
        return TO_DO[state]
    if isinstance(word, Approved | Declined):
        said_by = "its job ended elsewhere" if state is JobState.COMPLETED else "the gateway knows"
        outcome = "paid" if isinstance(word, Approved) else "declined"
        return Decision(Action.WRITE, f"{said_by}: {outcome}")
    if _waits_for_customer(row):
        return _waiting(row, word, rules)
    if rules.is_over(row):
        return _expired(row, word, rules)
    return _still_open(state, word)


def _still_open(state: JobState, word: Word) -> Decision:
    if state is JobState.COMPLETED and word is NoWord.NO_ANSWER:
        return Decision(Action.WAIT, "its job ended elsewhere, and the gateway gives no answer")
    return TO_DO[state]


def _waiting(row: Row, word: Word, rules: Rules) -> Decision:
    if word is NoWord.NOT_ASKED:
        return Decision(Action.LEAVE, "the customer or the bank has to act")
    if rules.is_over(row):
        return _expired(row, word, rules)
    return Decision(Action.REST_AGAIN, "the customer or the bank has still to act")


def _expired(row: Row, word: Word, rules: Rules) -> Decision:
    if word is NoWord.NO_ANSWER:
        return Decision(Action.WAIT, "past its time, but the gateway gives no answer")
    if rules.may_be_charging(row):
        return Decision(Action.WAIT, "past its time, but a worker may still be charging")
    return Decision(Action.EXPIRE, "past its time, and no money was taken")


_ANY_JOB = {
    JobState.ACTIVE: Decision(Action.LEAVE, "a worker is at its job"),
    JobState.LIVE: Decision(Action.LEAVE, "its job waits"),
    JobState.MISSING: Decision(Action.ADD, "its job is gone"),
    JobState.LOST: Decision(Action.REPLACE, "its job is in no list, so nobody would run it"),
    JobState.ASTRAY: Decision(Action.REPLACE, "its job waits for the time of a clock gone wrong"),
    JobState.FAILED: Decision(Action.RETRY, "its job failed, and it is not settled"),
    JobState.PUT_ASIDE: Decision(Action.LEAVE, "its job ended every worker that ran it"),
}
#: What is to be done by where the job is that brings an outcome.
TO_DO = _ANY_JOB | {
    JobState.COMPLETED: Decision(Action.RETRY, "its job ended elsewhere without an outcome"),
}
#: The same for a job that tells a customer.
TO_TELL = _ANY_JOB | {
    JobState.COMPLETED: Decision(Action.MARK_TOLD, "its job ended elsewhere: the customer knows"),
}
