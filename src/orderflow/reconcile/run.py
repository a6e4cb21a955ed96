"""One run of the reconciler: what was decided about each unsettled order is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import structlog

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.charge import expire_payment, write_outcome
from orderflow.contract import QueueName
from orderflow.db import Database
from orderflow.errors import DatabaseRefused
from orderflow.gateway_events import put_back_events
from orderflow.gateways import Approved, Declined, Gateway
from orderflow.metrics import (
    ORDERS,
    PAYMENTS,
    RECONCILER_ACTIONS,
    RECONCILER_LAST_RUN,
    RECONCILER_RUN,
    RECONCILER_RUNS,
    RECONCILER_UNSETTLED,
)
from orderflow.orders import OPEN_ORDER, OrderStatus
from orderflow.reconcile.decide import Action, NoWord, Rules
from orderflow.reconcile.follow_ups import FollowUps
from orderflow.reconcile.look import AT_ONCE, Case, Lookout

log = structlog.get_logger(__name__)

#: A run ends after this, and the next one begins with the oldest.
RUN_AT_MOST_S = 600.0
#: So does one that waited so long for room in a queue, since what it left behind may have changed.
WAIT_FOR_ROOM_AT_MOST_S = 60.0
_LOOK_FOR_ROOM_S = 0.05

_PUTS = frozenset({Action.ADD, Action.REPLACE, Action.RETRY})
_IDLE = frozenset({Action.LEAVE, Action.WAIT})


@dataclass(slots=True)
class Counts:
    """What one run saw and did: nothing while `another_runs`. `put_off` has to wait for another."""

    another_runs: bool = False
    unsettled: int = 0
    jobs_added: int = 0
    jobs_retried: int = 0
    results_taken: int = 0
    orders_expired: int = 0
    put_off: int = 0
    events_put_back: int = 0
    keys_purged: int = 0
    #: Refunds without an outcome, and events that nobody was told of.
    follow_ups: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


async def run_once(
    *,
    db: Database,
    queues: JobQueues,
    gateway: Gateway,
    grace_ms: int,
    rules: Rules = Rules(),  # noqa: B008 - it is frozen
) -> Counts:
    """Look at every unsettled order that rested for `grace_ms`, oldest first, page by page.

    Jobs are added and retried only as far as their queue has room; the run waits for it. One run
    at a time: another one, wherever it is, does nothing.

    Raises DatabaseUnavailable or redis.RedisError; what was done until then stays done.
    """
    # Nothing is written in this transaction: it holds the lock, and with its end lets go of it.
    async with db.transaction() as transaction:
        lock = await transaction.fetchrow("lock_reconciler")
        if lock is None or not lock["mine"]:
            RECONCILER_RUNS["skipped",] += 1
            return Counts(another_runs=True)
        await transaction.rest()
        lookout = Lookout(db, queues, gateway, grace_ms, rules)
        follow_ups = FollowUps(db, queues, grace_ms)
        run = _Run(db, queues, rules, lookout)
        with _counted(run.counts):
            try:
                # A queue that is full holds up its own orders, and not those of the others.
                async with asyncio.TaskGroup() as group:
                    group.create_task(run.settle_orders(QueueName.PAYMENTS, OPEN_ORDER))
                    group.create_task(run.settle_orders(QueueName.NOTIFICATIONS, _ENDED_ORDER))
                    group.create_task(run.follow_up(QueueName.NOTIFICATIONS, follow_ups.events()))
                    group.create_task(run.follow_up(QueueName.ORDERS, follow_ups.refunds()))
            except ExceptionGroup as failed:
                raise _first_of(failed) from None
            run.counts.events_put_back = await put_back_events(grace_ms, db=db, queues=queues)
        run.counts.keys_purged = len(await db.fetch("purge_idempotency_keys", 1_000))
    log.info("reconciled", **run.counts.to_json())
    return run.counts


@contextmanager
def _counted(counts: Counts) -> Iterator[None]:
    """Add what a run has done at its end to what this process counts."""
    started = time.perf_counter()
    outcome = "failed"
    try:
        yield
        outcome = "done"
        RECONCILER_LAST_RUN[()] = time.time()
        RECONCILER_UNSETTLED[()] = counts.unsettled
    finally:
        RECONCILER_RUNS[outcome,] += 1
        RECONCILER_RUN.observe(time.perf_counter() - started)
        for action in _ACTIONS:
            RECONCILER_ACTIONS[action,] += getattr(counts, action)


#: The counts of what was done, and not only seen.
_ACTIONS = ("jobs_added", "jobs_retried", "results_taken", "orders_expired", "keys_purged")
for _action in _ACTIONS:
    RECONCILER_ACTIONS.begin(_action)
for _outcome in ("done", "failed", "skipped"):
    RECONCILER_RUNS.begin(_outcome)
RECONCILER_LAST_RUN[()] = 0

_ENDED_ORDER = frozenset(OrderStatus) - OPEN_ORDER


class _Run:
    """What is shared by the parts of a run."""

    def __init__(self, db: Database, queues: JobQueues, rules: Rules, lookout: Lookout) -> None:
        self.counts = Counts()
        self._db = db
        self._queues = queues
        self._rules = rules
        self._lookout = lookout
        self._ends_at = time.monotonic() + RUN_AT_MOST_S

    async def settle_orders(self, queue: QueueName, statuses: Collection[OrderStatus]) -> None:
        """Do what is to be done about the orders in `statuses`, whose jobs are in `queue`."""

        async def counted() -> AsyncIterator[Sequence[Case]]:
            async for cases in self._lookout.pages(statuses):
                self.counts.unsettled += len(cases)
                yield cases

        await self._carry_out(queue, counted())

    async def follow_up(self, queue: QueueName, pages: AsyncIterator[Sequence[Case]]) -> None:
        """Do what is to be done about what follows after payments."""

        async def counted() -> AsyncIterator[Sequence[Case]]:
            async for cases in pages:
                self.counts.follow_ups += len(cases)
                yield cases

        await self._carry_out(queue, counted())

    async def _carry_out(self, queue: QueueName, pages: AsyncIterator[Sequence[Case]]) -> None:
        names = self._queues.names
        patience = {name: _Patience(self._ends_at) for name in names.shards_of(queue)}
        feeding: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            async for cases in pages:
                self.counts.put_off += sum(case.decision.action is Action.WAIT for case in cases)
                await self._do_each([c for c in cases if c.decision.action not in _PUTS | _IDLE])
                # Redis takes the jobs of one page while the next is looked at.
                if feeding is not None:
                    await feeding
                if all(queue_patience.is_over for queue_patience in patience.values()):
                    break
                puts = [case for case in cases if case.decision.action in _PUTS]
                feeding = group.create_task(self._feed_each(puts, patience))

    async def _feed_each(self, cases: Sequence[Case], patience: Mapping[str, _Patience]) -> None:
        """Put the jobs into their queues; one that is full holds up its own, and no other's."""
        async with asyncio.TaskGroup() as group:
            for queue, its_patience in patience.items():
                own = [case for case in cases if self._queues.names.queue_of(case.job) == queue]
                group.create_task(self._feed(queue, own, its_patience))

    async def _feed(self, queue: str, cases: Sequence[Case], patience: _Patience) -> None:
        """Put the jobs into their queue as it has room for them, in order."""
        while cases and not patience.is_over:
            room = await self._queues.room(queue)
            if room == 0:
                await patience.wait()
                continue
            now, cases = cases[:room], cases[room:]
            new = [case.job for case in now if case.decision.action is Action.ADD]
            if new:
                await self._queues.add_all(new)
                self.counts.jobs_added += len(new)
                log.info("missing jobs added", queue=queue, jobs=len(new))
            await self._do_each([c for c in now if c.decision.action is not Action.ADD])

    async def _do_each(self, cases: Sequence[Case]) -> None:
        few = asyncio.Semaphore(AT_ONCE)

        async def do(case: Case) -> None:
            async with few:
                await self._do(case)

        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(do(case))

    async def _do(self, case: Case) -> None:
        """Do what was decided about one order, and say so if anything came of it."""
        try:
            done = await self._done(case)
        except DatabaseRefused as error:
            # Its own fault: the orders after it must not wait for a person to mend it.
            log.error("order not reconciled", order_id=str(case.row["id"]), reason=str(error))  # noqa: TRY400
            return
        if done:
            log.info(
                "order put right",
                order_id=str(case.row["id"]),
                job_id=case.job.job_id,
                action=case.decision.action.value,
                reason=case.decision.reason,
            )

    async def _done(self, case: Case) -> bool:
        counts, row = self.counts, case.row
        match case.decision.action:
            case Action.REPLACE:
                await self._queues.replace(case.job)
                counts.jobs_added += 1
                return True
            case Action.RETRY:
                # A kept job blocks a new one with its id, so it runs again instead.
                retried = await self._queues.retry(case.job, case.state)
                counts.jobs_retried += retried
                return retried
            case Action.WRITE if isinstance(case.word, Approved | Declined):
                # Whoever charged elsewhere tells the customer, or else the next run sees to it.
                written = await write_outcome(
                    row["payment_id"],
                    case.word,
                    row["method"],
                    row["amount"],
                    row["currency"],
                    db=self._db,
                )
                if written:
                    self._queues.changes.tell(row["id"])
                counts.results_taken += written
                return written
            case Action.MARK_TOLD:
                await self._db.fetchrow(case.mark, case.subject or row["id"])
                counts.results_taken += 1
                return True
            case Action.REST_AGAIN:
                await self._db.fetchrow("rest_again", row["payment_id"])
            case Action.EXPIRE:
                expired = await self._expire(case)
                counts.orders_expired += expired
                if not expired:
                    await self._db.fetchrow("rest_again", row["payment_id"])
                return expired
        return False

    async def _expire(self, case: Case) -> bool:
        """Cancel an order that outlived its time, unless a worker was faster."""
        # BullMQ refuses to remove a job that a worker holds. A worker elsewhere, which does not
        # look at our rows before it charges, would not be held up by what is written there.
        if case.state is not JobState.MISSING and not await self._queues.remove(case.job):
            return False
        # Asked again, now that no worker gets the job: the first answer may be of a while ago. And
        # the customer could still pay at the gateway for a charge that waits there.
        if await self._lookout.word_of_cancelling(case.row) is not NoWord.NO_CHARGE:
            return False
        charge_at_most_s = self._rules.charge_at_most.total_seconds()
        expired = await expire_payment(case.row["payment_id"], charge_at_most_s, self._db)
        if expired:
            self._queues.changes.tell(case.row["id"])
            PAYMENTS["expired", case.row["method"]] += 1
            ORDERS["expired",] += 1
        return expired


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class _Patience:
    """How long a run goes on, and how long of that it may wait for room."""

    def __init__(self, ends_at: float) -> None:
        self._ends_at = ends_at
        self._waits_left_s = WAIT_FOR_ROOM_AT_MOST_S

    @property
    def is_over(self) -> bool:
        return self._waits_left_s <= 0 or time.monotonic() >= self._ends_at

    async def wait(self) -> None:
        await asyncio.sleep(_LOOK_FOR_ROOM_S)
        self._waits_left_s -= _LOOK_FOR_ROOM_S
