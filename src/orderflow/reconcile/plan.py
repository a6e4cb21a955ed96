"""What a run would do, told and not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from orderflow.bull.queues import JobQueues
from orderflow.bull.states import JobState
from orderflow.db import Database
from orderflow.gateways import Gateway
from orderflow.orders import OrderStatus
from orderflow.reconcile.decide import Action, Decision, Rules
from orderflow.reconcile.follow_ups import FollowUps
from orderflow.reconcile.look import Case, Lookout


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be done about one order, and why."""

    order_id: str
    age: timedelta
    status: str
    payment_status: str
    job_state: JobState
    decision: Decision

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.order_id}  {_told(self.age):>8}  {self.status:<10}  "
            f"{self.payment_status:<10}  {self.job_state:<9}  "
            f"{self.decision.action:<13}  {self.decision.reason}"
        )


@dataclass(slots=True)
class Plan:
    """How many orders, refunds and events a run would look at now, and what it would do."""

    unsettled: int = 0
    actions: Counter[Action] = field(default_factory=Counter)


async def make_plan(
    tell: Callable[[Planned], None],
    *,
    db: Database,
    queues: JobQueues,
    gateway: Gateway,
    grace_ms: int,
    rules: Rules,
) -> Plan:
    """Look at all that a run looks at, change nothing, and return the sums.

    `tell` is given each order that is not left alone, oldest first; then what is to follow on
    other orders.
    """
    plan = Plan()
    lookout = Lookout(db, queues, gateway, grace_ms, rules)
    follow_ups = FollowUps(db, queues, grace_ms)
    for pages in (lookout.pages(tuple(OrderStatus)), follow_ups.refunds(), follow_ups.events()):
        async for cases in pages:
            plan.unsettled += len(cases)
            for case in cases:
                plan.actions[case.decision.action] += 1
                if case.decision.action is not Action.LEAVE:
                    tell(_planned(case))
    return plan


def _planned(case: Case) -> Planned:
    row = case.row
    return Planned(
        order_id=row["external_id"] or str(row["id"]),
        age=row["age"],
        status=row["status"],
        payment_status=row["payment_status"],
        job_state=case.state,
        decision=case.decision,
    )


def _told(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
