"""Reading the unsettled orders page by page, and finding out what is known of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.contract import (
    NewJob,
    PaymentMethod,
    gateway_key,
    order_confirmation_job,
    payment_failed_job,
    payment_job,
)
from orderflow.db import Database
from orderflow.errors import GatewayRefused, GatewayUnavailable
from orderflow.gateways import Approved, Charge, Declined, Gateway, Outcome, Reply
from orderflow.orders import OrderStatus, PaymentStatus, Row
from orderflow.reconcile.decide import (
    Decision,
    NoWord,
    Rules,
    Word,
    can_be_charged,
    decide,
    needs_word,
)

log = structlog.get_logger(__name__)

PAGE_SIZE = 2_000
#: Orders of one page that are asked about, or changed, at the same time.
AT_ONCE = 16
_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
_END = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class Case:
    """An unsettled order: its row, the job that it needs, and what is to be done about it.

    `mark` is the statement that says of the `subject`, the order if there is none, that its
    customer was told.
    """

    row: Row
    job: NewJob
    state: JobState
    word: Word
    decision: Decision
    mark: str = "mark_notified"
    subject: UUID | None = None


class Lookout:
    """What one run looks with. `grace_ms` is how long an order must have rested."""

    def __init__(
        self, db: Database, queues: JobQueues, gateway: Gateway, grace_ms: int, rules: Rules
    ) -> None:
        self._db = db
        self._queues = queues
        self._gateway = gateway
        self._grace_s = grace_ms / 1000
        self._rules = rules
        self._complained = False

    async def pages(self, statuses: Collection[OrderStatus]) -> AsyncIterator[Sequence[Case]]:
        """Give the unsettled orders in one of `statuses`, oldest first, a page at a time.

        Raises DatabaseUnavailable or redis.RedisError.
        """
        after, names = _START, [status.value for status in statuses]
        while after != _END:
            row = await self._db.fetchrow("end_of_page", *after, PAGE_SIZE)
            end = _END if row is None else (row["created_at"], row["id"])
            rows = await self._db.fetch("unsettled_orders", *after, *end, self._grace_s, names)
            yield await self._cases(rows)
            after = end

    async def _cases(self, rows: Sequence[Row]) -> Sequence[Case]:
        jobs = [_wanted(row) for row in rows]
        states = await self._queues.states(jobs)
        few = asyncio.Semaphore(AT_ONCE)

        async def word_of(row: Row, job: NewJob, state: JobState) -> Word:
            async with few:
                return await self._word(row, job, state)

        found = list(zip(rows, jobs, states, strict=True))
        asked = [case for case in found if needs_word(case[0], case[2], self._rules)]
        moved_on = await self._moved_on([row for row, _, _ in asked])
        asked = [case for case in asked if case[0]["id"] not in moved_on]
        heard = await asyncio.gather(*(word_of(*case) for case in asked))
        words = {row["id"]: word for (row, _, _), word in zip(asked, heard, strict=True)}
        cases = []
        for row, job, state in found:
            if row["id"] not in moved_on:
                word = words.get(row["id"], NoWord.NOT_ASKED)
                cases.append(Case(row, job, state, word, decide(row, state, word, self._rules)))
        return cases

    async def _moved_on(self, rows: Sequence[Row]) -> set[UUID]:
        """Return the ids of the orders that somebody took further since the rows were read.

        The jobs were looked at later than the rows. In a busy shop many came to their end in
        between, and the gateway need not be asked about what is written down by now.
        """
        if not rows:
            return set()
        read = [(row["id"], row["status"], row["payment_status"]) for row in rows]
        return {row["id"] for row in await self._db.fetch("moved_on", *zip(*read, strict=True))}

    async def _word(self, row: Row, job: NewJob, state: JobState) -> Word:
        word = await self.word_of_gateway(row)
        if word is NoWord.NO_CHARGE and state is JobState.COMPLETED:
            return _outcome(await self._queues.result(job)) or word
        return word

    async def word_of_gateway(self, row: Row) -> Word:
        """Ask the gateway, whose word on money is better than that of a job in Redis."""
        return await self._asked(row, self._gateway.find)

    async def word_of_cancelling(self, row: Row) -> Word:
        """Have the gateway let go of the charge; NO_CHARGE if it takes no money for it any more."""
        return await self._asked(row, self._gateway.cancel)

    async def _asked(self, row: Row, ask: Callable[[Charge], Awaitable[Reply | None]]) -> Word:
        if not can_be_charged(row):
            return NoWord.NO_CHARGE
        charge = _charge(row)
        try:
            reply = await ask(charge)
        except (GatewayUnavailable, GatewayRefused) as error:
            # Once a run: in an outage there is nothing new to say of the other orders.
            if not self._complained:
                log.warning("gateway gave no answer", payment_id=charge.key, reason=str(error))
            self._complained = True
            return NoWord.NO_ANSWER
        return NoWord.NO_CHARGE if reply is None else reply


def _charge(row: Row) -> Charge:
    return Charge(
        key=gateway_key(row["payment_external_id"] or str(row["payment_id"])),
        amount=row["amount"],
        currency=row["currency"],
        method=PaymentMethod(row["method"]),
        token=None,
    )


def _wanted(row: Row) -> NewJob:
    """Return the job that an unsettled order needs next."""
    order_key = row["external_id"] or str(row["id"])
    match OrderStatus(row["status"]):
        case OrderStatus.PENDING | OrderStatus.PROCESSING:
            payment_key = row["payment_external_id"] or str(row["payment_id"])
            return payment_job(payment_key, order_key, row["method"], row["amount"])
        case OrderStatus.CANCELLED:
            return payment_failed_job(
                order_key, row["user_id"], row["decline_reason"] or "cancelled"
            )
        case _:
            return order_confirmation_job(order_key, row["user_id"])


def _outcome(result: Any) -> Outcome | None:
    """Read the result of a payment job as the contract has it; None if it does not say enough."""
    match result:
        case {"reason": PaymentStatus.REQUIRES_ACTION}:
            return None
        case {"success": True, "transactionId": str(transaction_id)} if transaction_id:
            return Approved(transaction_id)
        case {"success": False}:
            return Declined(str(result.get("reason") or "declined"))
    return None
