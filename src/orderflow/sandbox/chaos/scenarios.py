"""What can go wrong, by name: each scenario troubles a shop in full flow and returns its faults."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orderflow.sandbox.chaos.customers import Customers
from orderflow.sandbox.chaos.stack import Stack


@dataclass
class Run:
    """One run of a scenario: what it may break, who orders how often meanwhile, and its chance."""

    stack: Stack
    customers: Customers
    orders: int
    chance: random.Random

    def some_s(self, at_least: float, at_most: float) -> float:
        """Return a random time to wait."""
        return self.chance.uniform(at_least, at_most)


#: Troubles a run, and returns what was answered wrongly; what is lost or double is judged after.
Trouble = Callable[[Run], Awaitable[list[str]]]


class Skipped(Exception):
    """A scenario cannot be had on this machine; the message says what it needs."""


@dataclass(frozen=True)
class Scenario:
    """A kind of trouble.

    `may_tell_twice` where a worker dies, or cannot record, between the mail server's yes and the
    record: then a customer may be told twice.
    """

    name: str
    what: str
    trouble: Trouble
    may_tell_twice: bool


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, what: str, *, may_tell_twice: bool = False) -> Callable[[Trouble], Trouble]:
    """Register the decorated function under a name; `what` says what happens."""

    def register(trouble: Trouble) -> Trouble:
        SCENARIOS[name] = Scenario(name, what, trouble, may_tell_twice)
        return trouble

    return register
