"""Orders under everything that may happen to them, in any order, beside the rules they obey.

Each example is a shop of its own on real PostgreSQL and real queues. A process may die before or
after any statement, charge, message or job, and what it was doing is then left half done.
HYPOTHESIS_PROFILE=deep looks for about ten minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from bullmq import Worker
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from orderflow.bull.clients import QueueClients
from orderflow.bull.connection import connect_producer, connect_worker
from orderflow.bull.queues import JobQueues
from orderflow.bull.worker import Delivery
from orderflow.cancel import cancel_order
from orderflow.checkout import IdempotencyKey, Receipt, place_order
from orderflow.checkout_body import Checkout
from orderflow.contract import (
    JobName,
    NewJob,
    PaymentMethod,
    QueueName,
    gateway_event_job,
    order_confirmation_job,
    order_event_job,
    order_refunded_job,
    payment_failed_job,
    payment_job,
    refund_job,
)
from orderflow.errors import (
    AddressRefused,
    DatabaseUnavailable,
    GatewayUnavailable,
    IdempotencyKeyReused,
    IllegalTransition,
    NothingToRefund,
    OutOfStock,
    RefundTooLarge,
    SenderUnavailable,
)
from orderflow.gateway_events import take_event
from orderflow.gateways import (
    ActionRequired,
    Approved,
    Charge,
    Declined,
    GatewayEvent,
    Outcome,
    Refund,
    Refunded,
    Reply,
)
from orderflow.orders import (
    OPEN_ORDER,
    ORDER_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    OrderStatus,
    PaymentStatus,
)
from orderflow.queue_names import QueueNames
from orderflow.reconcile import run_once
from orderflow.refund import request_refund
from orderflow.resources import Resources, open_resources
from orderflow.senders import Channel, Message
from orderflow.settings import Settings
from orderflow.shipping import deliver_order, ship_order
from orderflow.worker_files import load_worker

STOCK = 12
#: A run that comes to rest needs a few of these; one that never does is a fault.
ROUNDS_TO_REST = 12

QUEUES = (QueueName.PAYMENTS, QueueName.ORDERS, QueueName.NOTIFICATIONS)
WORKERS = {
    QueueName.PAYMENTS: load_worker("payment"),
    QueueName.ORDERS: load_worker("order"),
    QueueName.NOTIFICATIONS: load_worker("notification"),
}

KEPT = {OrderStatus.CONFIRMED, OrderStatus.SHIPPED, OrderStatus.DELIVERED}
PAID = {PaymentStatus.COMPLETED, PaymentStatus.REFUNDED}
EVENTS = (JobName.ORDER_SHIPPED, JobName.ORDER_DELIVERED, JobName.ORDER_CANCELLED)

_prefixes = itertools.count(1)


class Death(BaseException):
    """The process is gone: nothing that it would have done after this is done."""


@dataclass
class Fate:
    """How many steps a process may take, and what it meets then: its own death, or an outage."""

    steps: int | None = None
    outage: bool = False
    over: bool = False

    def step(self, *, of_database: bool = False) -> None:
        if self.steps is not None and not self.over:
            self.steps -= 1
            self.over = self.steps < 0
        if self.over and not self.outage:
            raise Death
        if self.over and of_database:
            raise DatabaseUnavailable(reason="the test said so")


class Mortal:
    """Anything that a process uses; each call is two steps, so that death may come between."""

    def __init__(self, used: Any, fate: Fate, *calls: str, of_database: bool = False) -> None:
        self._used, self._fate, self._calls = used, fate, calls
        self._of_database = of_database

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._used, name)
        if name not in self._calls:
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._fate.step(of_database=self._of_database)
            result = await attribute(*args, **kwargs)
            self._fate.step(of_database=self._of_database)
            return result

        return call


class MortalDatabase(Mortal):
    """A database whose every statement may be the last, committed or not."""

    def __init__(self, db: Any, fate: Fate) -> None:
        super().__init__(db, fate, "batch", "fetch", "fetchrow", of_database=True)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._used.transaction() as transaction:
            yield Mortal(transaction, self._fate, "fetch", "fetchrow", of_database=True)


class Books:
    """A gateway that takes money as often as it is told to.

    A real one would take it once for each key, and give it back once; that orderflow asks before
    it does either again is what this one shows. Only of two that ask at the same time the second is
    given the answer of the first. With `tok_wait` a charge waits for its customer.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.waiting: set[str] = set()
        self.charges: Counter[str] = Counter()
        self.refunded: dict[str, Refunded] = {}
        self.refunds: Counter[str] = Counter()
        self.given_back: Counter[str] = Counter()
        self.two_at_once = False
        self.mood = "well"

    async def charge(self, charge: Charge) -> Reply:
        self._answer("down")
        if charge.token == "tok_wait" and charge.key not in self.outcomes:
            self.waiting.add(charge.key)
            self._answer("loses answers")
            return _waits(charge.key)
        if not (self.two_at_once and charge.key in self.outcomes):
            self.charges[charge.key] += 1
            declined = charge.token == "tok_decline" or charge.amount == Decimal("0.13")
            self.outcomes[charge.key] = (
                Declined("card_declined") if declined else Approved(f"tx-{charge.key}")
            )
        await asyncio.sleep(0)
        self._answer("loses answers")
        return self.outcomes[charge.key]

    async def find(self, charge: Charge) -> Reply | None:
        self._answer("down", "loses answers")
        if charge.key in self.waiting:
            return _waits(charge.key)
        return self.outcomes.get(charge.key)

    async def cancel(self, charge: Charge) -> Outcome | None:
        self._answer("down")
        if charge.key in self.waiting:
            self.waiting.remove(charge.key)
            self.outcomes[charge.key] = Declined("expired")
            self._answer("loses answers")
            return None
        self._answer("loses answers")
        return self.outcomes.get(charge.key)

    def act(self, key: str, *, pays: bool) -> None:
        """Let the customer go on with a charge that waits."""
        self.waiting.remove(key)
        self.charges[key] += 1
        self.outcomes[key] = Approved(f"tx-{key}") if pays else Declined("card_declined")

    async def refund(self, refund: Refund) -> Refunded:
        self._answer("down")
        assert self.outcomes[refund.charge_key] == Approved(refund.transaction_id)
        if not (self.two_at_once and refund.key in self.refunded):
            self.refunds[refund.key] += 1
            self.given_back[refund.charge_key] += refund.amount
            self.refunded[refund.key] = Refunded(f"re-{refund.key}")
        await asyncio.sleep(0)
        self._answer("loses answers")
        return self.refunded[refund.key]

    async def find_refund(self, refund: Refund) -> Refunded | None:
        self._answer("down", "loses answers")
        return self.refunded.get(refund.key)

    def _answer(self, *silent_when: str) -> None:
        if self.mood in silent_when:
            raise GatewayUnavailable(reason=self.mood)


def _waits(key: str) -> ActionRequired:
    return ActionRequired(f"tx-{key}", "a secret of the customer")


class Post:
    """A sender that keeps what it took."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.taken: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.mood = "well"

    async def send(self, message: Message) -> str:
        if self.mood == "down":
            raise SenderUnavailable(channel=self.channel.value, reason=self.mood)
        if self.mood == "refuses":
            self.refused.add(message.reference)
            raise AddressRefused(channel=self.channel.value, reason=self.mood)
        self.taken[message.reference] += 1
        return message.reference


class Shop(RuleBasedStateMachine):
    """One shop, and what may befall it."""

    # What all examples share, since connecting takes longer than an example.
    run: Callable[[Awaitable[Any]], Any]
    shared: Resources
    redis: Redis
    sql: asyncpg.Connection[asyncpg.Record]

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model-{next(_prefixes)}"
        self.books = Books()
        self.posts = (Post(Channel.EMAIL), Post(Channel.SMS))
        self.receipts: dict[str, tuple[Checkout, Receipt]] = {}
        self.statuses: dict[Any, tuple[OrderStatus, PaymentStatus]] = {}
        self.may_repeat: Counter[str] = Counter()
        self.foreign: set[str] = set()
        self.run(self._open())

    async def _open(self) -> None:
        await self.sql.execute(
            "DELETE FROM gateway_events; DELETE FROM event_messages; DELETE FROM order_events;"
            "DELETE FROM refunds;"
            "DELETE FROM notifications; DELETE FROM stray_charges; DELETE FROM payments;"
            "DELETE FROM orders; DELETE FROM idempotency_keys; DELETE FROM products"
        )
        await self.sql.execute(
            """INSERT INTO products (sku, name, price, currency, stock)
               VALUES ('mug', 'Mug', 5, 'EUR', $1), ('gift', 'Gift', 1, 'EUR', NULL)""",
            STOCK,
        )
        servers = self.shared.settings.redis_servers
        self.clients = [
            connect_producer(servers, 5_000, self.prefix),
            connect_worker(servers, self.prefix),
        ]
        self.queues = JobQueues(
            QueueClients(lambda _prefix: self.clients[0]),
            QueueNames(self.prefix),
            self.shared.settings.priorities,
            1_000,
            5.0,
        )
        options = {"autorun": False, "connection": self.clients[1], "prefix": self.prefix}
        self.hands = {
            # Deaths are counted by nobody here: a job that meets many is put aside elsewhere.
            queue: Worker(queue, None, options | {"maxStalledCount": 1_000, "stalledInterval": 1})
            for queue in QUEUES
        }

    def _process(self, fate: Fate) -> Resources:
        """Return what a process has that meets this fate."""
        return replace(
            self.shared,
            db=MortalDatabase(self.shared.db, fate),
            queues=Mortal(self.queues, fate, "offer", "add", "add_all", "retry", "replace"),
            gateway=Mortal(self.books, fate, "charge", "find", "cancel", "refund", "find_refund"),
            senders=tuple(_mortal_post(post, fate) for post in self.posts),
        )

    # What may happen

    @rule(
        sku=st.sampled_from(["mug", "gift"]),
        quantity=st.integers(1, 5),
        method=st.sampled_from(["card", "card", "wallet", "cash"]),
        token=st.sampled_from(["tok_approve", "tok_decline", "tok_wait"]),
        phone=st.sampled_from([None, "+4915112345678"]),
        key=st.sampled_from([None, None, "key-1", "key-2"]),
        fate=st.builds(Fate, st.none() | st.integers(0, 6)),
    )
    def check_out(
        self,
        sku: str,
        quantity: int,
        method: str,
        token: str,
        phone: str | None,
        key: str | None,
        fate: Fate,
    ) -> None:
        body = {
            "items": [{"sku": sku, "quantity": quantity}],
            "paymentMethod": method,
            "paymentToken": token,
            "contact": {"email": "ada@shop.example", "phone": phone},
        }
        self.run(self._check_out(Checkout.model_validate(body), key, fate))

    @rule(key=st.sampled_from(["key-1", "key-2"]))
    def check_out_again(self, key: str) -> None:
        if key in self.receipts:
            self.run(self._check_out(self.receipts[key][0], key, Fate()))

    async def _check_out(self, checkout: Checkout, key: str | None, fate: Fate) -> None:
        known = self.receipts.get(key or "")
        process = self._process(fate)
        left = await self.sql.fetchval("SELECT stock FROM products WHERE sku = 'mug'")
        before = await self._orders()
        try:
            receipt = await place_order(
                checkout,
                "user-1",
                None if key is None else IdempotencyKey(key, 3_600),
                db=process.db,
                queues=process.queues,
            )
        except Death:
            # The client heard nothing: its next try finds out whether there is an order.
            return
        except OutOfStock:
            assert checkout.items[0].sku == "mug"
            assert checkout.items[0].quantity > left
            assert await self._orders() == before
            return
        except IdempotencyKeyReused:
            assert await self._orders() == before
            if known is not None:
                assert checkout != known[0]
            return
        assert receipt.order_id in await self._orders()
        if known is not None:
            assert (checkout, receipt.order_id) == (known[0], known[1].order_id)
            assert receipt.replayed
        if key is not None:
            self.receipts[key] = (checkout, receipt)

    async def _orders(self) -> set[Any]:
        return {row["id"] for row in await self.sql.fetch("SELECT id FROM orders")}

    @rule(
        id_=st.sampled_from([17, "ext-18", "ext:19"]),
        amount=st.sampled_from([19.99, 0.13]),
        times=st.integers(1, 2),
    )
    def node_adds_a_job(self, id_: int | str, amount: float, times: int) -> None:
        data = {
            "paymentId": id_,
            "orderId": id_,
            "paymentData": {"method": "card", "amount": amount},
        }
        if str(id_) in self.foreign:
            return  # Node does not give an id to two orders
        self.foreign.add(str(id_))
        queue = self.queues.queue(QueueName.PAYMENTS)
        for _ in range(times):
            self.run(queue.add("process-payment", data, {"attempts": 3}))

    @rule(
        which=st.integers(0, 9),
        pays=st.booleans(),
        times=st.integers(0, 2),
        fate=st.builds(Fate, st.none() | st.integers(0, 4)),
    )
    def customer_acts(self, which: int, pays: bool, times: int, fate: Fate) -> None:
        """A customer goes on at the gateway, which tells of it once, twice or never."""
        waiting = sorted(self.books.waiting)
        if waiting:
            key = waiting[which % len(waiting)]
            self.books.act(key, pays=pays)
            self.run(self._tell(key, times, fate))

    async def _tell(self, key: str, times: int, fate: Fate) -> None:
        outcome = self.books.outcomes[key]
        paid = outcome if isinstance(outcome, Approved) else None
        event = GatewayEvent(f"evt-{key}", "of a payment", key, paid, datetime.now(UTC))
        process = self._process(fate)
        with suppress(Death):
            for _ in range(times):
                await take_event(event, "books", db=process.db, queues=process.queues)

    @rule(which=st.integers(0, 9), fate=st.builds(Fate, st.none() | st.integers(0, 12)))
    def cancel(self, which: int, fate: Fate) -> None:
        self.run(self._change(cancel_order, which, fate))

    @rule(
        which=st.integers(0, 9),
        amount=st.sampled_from([None, Decimal("1.00"), Decimal("5.00")]),
        key=st.sampled_from(["key-1", "key-2"]),
        fate=st.builds(Fate, st.none() | st.integers(0, 10)),
    )
    def refund(self, which: int, amount: Decimal | None, key: str, fate: Fate) -> None:
        self.run(self._change(request_refund, which, fate, amount, key))

    @rule(which=st.integers(0, 9), fate=st.builds(Fate, st.none() | st.integers(0, 6)))
    def ship(self, which: int, fate: Fate) -> None:
        self.run(self._change(ship_order, which, fate, "Parcels", "1"))

    @rule(which=st.integers(0, 9), fate=st.builds(Fate, st.none() | st.integers(0, 6)))
    def hand_over(self, which: int, fate: Fate) -> None:
        self.run(self._change(deliver_order, which, fate))

    async def _change(self, change: Any, which: int, fate: Fate, *args: Any) -> None:
        """Do something with an order that an operator or its customer may do."""
        rows = await self._rows()
        if not rows:
            return
        process = self._process(fate)
        with suppress(
            Death, IllegalTransition, NothingToRefund, RefundTooLarge, IdempotencyKeyReused
        ):
            order_id = str(rows[which % len(rows)]["id"])
            await change(order_id, *args, db=process.db, queues=process.queues)

    @rule(mood=st.sampled_from(["well", "down", "loses answers", "refuses"]))
    def deliver(self, mood: str) -> None:
        self.run(self._deliver_any(Fate(), mood))

    @rule(steps=st.integers(0, 14))
    def die_while_delivering(self, steps: int) -> None:
        self.run(self._deliver_any(Fate(steps)))

    @rule(steps=st.integers(0, 14))
    def lose_the_database_while_delivering(self, steps: int) -> None:
        self.run(self._deliver_any(Fate(steps, outage=True)))

    async def _deliver_any(self, fate: Fate, mood: str = "well") -> None:
        """Give a job to a process, of those that wait or else of those that wait for the clock."""
        for _ in range(2):
            for queue in QUEUES:
                if await self._deliver(queue, fate, mood):
                    return
            await self._let_time_go_by()

    async def _deliver(self, queue: QueueName, fate: Fate, mood: str = "well") -> bool:
        """Give the next job to a process; return whether there was one."""
        token = "hands"
        job = await self.hands[queue].moveToActive(token)
        if job is None:
            return False
        delivery = Delivery(queue, job.name, str(job.id), job.data)
        with suppress(Death):
            try:
                result = await self._work(delivery, fate, mood)
                fate.step()
            except Exception as error:
                fate.step()
                await job.moveToFailed(error, token)
            else:
                await job.moveToCompleted(result, token)
        return True

    async def _work(self, delivery: Delivery, fate: Fate, mood: str) -> dict[str, Any]:
        self.books.mood = mood
        for post in self.posts:
            post.mood = mood
        try:
            return await WORKERS[QueueName(delivery.queue)].process(delivery, self._process(fate))
        finally:
            if not self.books.two_at_once:
                await self._excuse_what_was_not_recorded()

    async def _excuse_what_was_not_recorded(self) -> None:
        """A message may go again that was taken, and whose record was lost with its process."""
        for row in await self.sql.fetch(
            """SELECT kind, order_id AS id, channel FROM notifications WHERE sent_at IS NULL
               UNION ALL
               SELECT kind, coalesce(refund_id, order_id), channel
               FROM event_messages m JOIN order_events e ON e.id = m.event_id
               WHERE sent_at IS NULL"""
        ):
            reference = f"{row['kind']}.{row['id']}"
            for post in self.posts:
                if post.channel == row["channel"]:
                    self.may_repeat[f"{post.channel}:{reference}"] = post.taken[reference]

    # What is drawn must not hang on what happened before, or hypothesis could not play it again.
    @rule(which=st.integers(0, 59), times=st.integers(1, 2))
    def deliver_again(self, which: int, times: int) -> None:
        """A job that was delivered before, or is not due, is delivered: also twice at once."""
        jobs = self.run(self._jobs_of_every_order())
        if jobs:
            self.run(self._deliver_at_once([jobs[which % len(jobs)]] * times))

    async def _jobs_of_every_order(self) -> list[NewJob]:
        jobs = []
        for row in await self._rows():
            order, payment = str(row["id"]), str(row["payment_id"])
            jobs += [
                payment_job(payment, order, row["method"], row["amount"]),
                order_confirmation_job(order, "user-1"),
                payment_failed_job(order, "user-1", "card_declined"),
                *(order_event_job(kind, order, "user-1") for kind in EVENTS),
            ]
        for row in await self.sql.fetch("SELECT event_id FROM gateway_events ORDER BY event_id"):
            jobs.append(gateway_event_job("books", row["event_id"]))
        for row in await self.sql.fetch("SELECT id, order_id FROM refunds ORDER BY id"):
            order = str(row["order_id"])
            jobs += [refund_job(row["id"], order), order_refunded_job(row["id"], order, "user-1")]
        return jobs

    async def _deliver_at_once(self, jobs: list[NewJob]) -> None:
        self.books.two_at_once = len(jobs) > 1
        deliveries = [Delivery(job.queue, job.name, job.job_id, dict(job.data)) for job in jobs]
        results = await asyncio.gather(
            *(self._work(delivery, Fate(), "well") for delivery in deliveries),
            return_exceptions=True,
        )
        self.books.two_at_once = False
        for result in results:
            assert not isinstance(result, Exception) or str(result)

    @rule(
        fate=st.builds(Fate, st.none() | st.integers(0, 20), st.booleans()),
        mood=st.sampled_from(["well", "well", "down"]),
    )
    def reconcile(self, fate: Fate, mood: str) -> None:
        self.run(self._reconcile(fate, mood))

    async def _reconcile(self, fate: Fate, mood: str = "well") -> None:
        self.books.mood = mood
        process = self._process(fate)
        try:
            await run_once(
                db=process.db, queues=process.queues, gateway=process.gateway, grace_ms=0
            )
        except DatabaseUnavailable:
            assert fate.over
        except BaseExceptionGroup as group:
            if group.split(Death)[1] is not None:
                raise
        except Death:
            pass

    @rule()
    def time_goes_by(self) -> None:
        """Backoffs, claims and the locks of the dead come to their end."""
        self.run(self._let_time_go_by())

    async def _let_time_go_by(self) -> None:
        await self.sql.execute(
            """UPDATE notifications SET claimed_until = now() WHERE claimed_until > now();
               UPDATE event_messages SET claimed_until = now() WHERE claimed_until > now();
               UPDATE payments SET updated_at = updated_at - interval '1 hour'
               WHERE decline_reason = 'order_cancelled' OR status = 'requires_action'"""
        )
        for queue in QUEUES:
            key = f"{self.prefix}:{queue}"
            for job_id in self.redis.lrange(f"{key}:active", 0, -1):
                self.redis.delete(f"{key}:{job_id}:lock")
            # The first look marks them, the second one finds them unlocked still.
            for _ in range(2):
                self.redis.delete(f"{key}:stalled-check")
                await self.hands[queue].runStalledJobsCheck()
            for job_id in self.redis.zrange(f"{key}:delayed", 0, -1):
                job = await self.queues.queue(queue).getJob(job_id)
                await job.promote()

    @rule()
    def empty_redis(self) -> None:
        for key in self.redis.scan_iter(match=f"{self.prefix}:*", count=1_000):
            self.redis.delete(key)

    # What is true after each of these

    @invariant()
    def the_rules_hold(self) -> None:
        self.run(self._check())

    async def _rows(self) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.sql.fetch(
            """SELECT o.id, o.status, o.email, o.phone, o.notified_at,
                      p.id AS payment_id, p.method, p.amount,
                      p.status AS payment_status, coalesce(p.external_id, p.id::text) AS key,
                      EXISTS (SELECT FROM order_events e
                              WHERE e.order_id = o.id AND e.kind = 'order-cancelled') AS cancelled
               FROM orders o JOIN payments p ON p.order_id = o.id
               ORDER BY o.created_at, o.id"""
        )
        return rows

    async def _check(self) -> None:
        rows = await self._rows()
        assert self.statuses.keys() <= {row["id"] for row in rows}, "an order is gone"
        for row in rows:
            self._check_order(row)
        stock = await self.sql.fetchval("SELECT stock FROM products WHERE sku = 'mug'")
        sold = await self.sql.fetchval(
            """SELECT coalesce(sum(quantity), 0)
               FROM order_items i JOIN orders o ON o.id = i.order_id
               WHERE i.sku = 'mug' AND o.status <> 'cancelled'"""
        )
        assert stock + sold == STOCK
        assert not await self.sql.fetch(
            """SELECT FROM stray_charges s JOIN payments p ON p.id = s.payment_id
               WHERE p.decline_reason IS DISTINCT FROM 'order_cancelled'"""
        )
        for refund, times in self.books.refunds.items():
            assert times == 1, refund
        for post in self.posts:
            for reference, times in post.taken.items():
                assert times <= 1 + self.may_repeat[f"{post.channel}:{reference}"], reference

    def _check_order(self, row: asyncpg.Record) -> None:
        order, payment = OrderStatus(row["status"]), PaymentStatus(row["payment_status"])
        was = self.statuses.get(row["id"], (OrderStatus.PENDING, PaymentStatus.PENDING))
        assert _leads_to(was[0], order, ORDER_TRANSITIONS), (was, order)
        assert _leads_to(was[1], payment, PAYMENT_TRANSITIONS), (was, payment)
        self.statuses[row["id"]] = (order, payment)

        if order in KEPT:
            assert payment in PAID
        if payment is PaymentStatus.FAILED or row["cancelled"]:
            assert order is OrderStatus.CANCELLED
        elif payment in PAID:
            assert order in KEPT
        charges = self.books.charges[row["key"]]
        assert charges <= 1
        assert self.books.given_back[row["key"]] <= row["amount"]
        if row["method"] == PaymentMethod.CASH:
            assert charges == 0
            assert order is not OrderStatus.CANCELLED or row["cancelled"]
        elif order not in OPEN_ORDER and not row["cancelled"]:
            assert charges == 1
            approved = isinstance(self.books.outcomes[row["key"]], Approved)
            assert approved == (order in KEPT)

    # Where all of it ends

    def teardown(self) -> None:
        try:
            self.run(self._come_to_rest())
        finally:
            self.empty_redis()
            for client in self.clients:
                self.run(client.aclose())

    async def _come_to_rest(self) -> None:
        for _ in range(ROUNDS_TO_REST):
            await self._let_time_go_by()
            for queue in QUEUES:
                while await self._deliver(queue, Fate()):
                    pass
            # Of these nobody is told.
            for number, key in enumerate(sorted(self.books.waiting)):
                self.books.act(key, pays=number % 2 == 0)
            await self._reconcile(Fate())
            rows = await self._rows()
            if all(row["notified_at"] for row in rows) and not await self._unfinished():
                break
        await self._check()
        assert not await self._unfinished()
        for row in await self._rows():
            assert row["status"] not in OPEN_ORDER
            assert row["notified_at"] is not None
            assert row["cancelled"] or self._was_told(_how_it_ended(row), row["id"], row)
            outcome = self.books.outcomes.get(row["key"])
            if row["cancelled"] and isinstance(outcome, Approved):
                assert self.books.given_back[row["key"]] == row["amount"]
        await self._check_events()
        known = {row["key"] for row in await self._rows()}
        assert set(self.books.charges) <= known

    async def _unfinished(self) -> list[asyncpg.Record]:
        unfinished: list[asyncpg.Record] = await self.sql.fetch(
            """SELECT id FROM refunds WHERE status IN ('pending', 'processing')
               UNION ALL SELECT id FROM order_events WHERE told_at IS NULL"""
        )
        return unfinished

    async def _check_events(self) -> None:
        """Everything that became of an order was told, and what was given back is in the rows."""
        for event in await self.sql.fetch(
            """SELECT e.kind, coalesce(e.refund_id, e.order_id) AS id, o.email, o.phone
               FROM order_events e JOIN orders o ON o.id = e.order_id"""
        ):
            assert self._was_told(event["kind"], event["id"], event)
        for row in await self.sql.fetch(
            """SELECT coalesce(p.external_id, p.id::text) AS key, sum(r.amount) AS amount
               FROM refunds r JOIN payments p ON p.id = r.payment_id
               WHERE r.status = 'completed' AND p.method <> 'cash'
               GROUP BY p.id"""
        ):
            assert self.books.given_back[row["key"]] == row["amount"]

    def _was_told(self, kind: str, about: Any, row: asyncpg.Record) -> bool:
        reference = f"{kind}.{about}"
        asked = self.posts[:1] * (row["email"] is not None) + self.posts[1:] * bool(row["phone"])
        return all(reference in {*post.taken, *post.refused} for post in asked)


def _how_it_ended(row: asyncpg.Record) -> str:
    return "payment-failed" if row["status"] == "cancelled" else "order-confirmation"


def _mortal_post(post: Post, fate: Fate) -> Mortal:
    return Mortal(post, fate, "send")


def _leads_to(was: Any, now: Any, transitions: Any) -> bool:
    """Say whether a way of legal steps goes from `was` to `now`."""
    return was == now or any(_leads_to(step, now, transitions) for step in transitions[was])


@pytest.fixture
def model(settings: Settings, redis: Redis) -> Any:
    with asyncio.Runner() as runner:
        # An outage here has no end, and who tries again gives up with the job.
        opened = open_resources(settings.model_copy(update={"job_timeout_ms": 1_000}))
        Shop.run = staticmethod(runner.run)
        Shop.shared = runner.run(opened.__aenter__())
        Shop.sql = runner.run(asyncpg.connect(settings.database_dsn))
        Shop.redis = redis
        yield Shop
        runner.run(Shop.sql.close())
        runner.run(opened.__aexit__(None, None, None))


def test_no_order_breaks_a_rule(model: type[Shop]) -> None:
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    run_state_machine_as_test(
        model,
        settings=examples(
            max_examples=600 if deep else 30,
            stateful_step_count=50 if deep else 40,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
