"""What a row is: two sides, what is measured of each, and what ours must reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """Who is measured."""

    PEER = "peer"
    OURS = "ours"


class Kind(StrEnum):
    """How the two sides are compared."""

    RATE = "rate"  # more is better; the ratio is ours / peer, and must be as high as `must`
    COST = "cost"  # less is better; the ratio is ours / peer, and must not be above `must`
    LIMIT = "limit"  # less is better; ours alone must not be above `must`


@dataclass(frozen=True)
class Measure:
    """One figure of a row."""

    name: str
    unit: str
    kind: Kind
    must: float
    aim: float


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    pairs: int
    quick: bool
    size: int
    log_level: str

    def count(self, full: int) -> int:
        """Return how much of something to do: a small part of it where all is only tried out."""
        return max(full // 20, 500) if self.quick else full

    def seconds(self, full: float) -> float:
        """Return how long to do something."""
        return full / 5 if self.quick else full


Values = Mapping[str, float]
#: Measures one side once.
MeasureSide = Callable[[Side], Values]


@dataclass(frozen=True)
class Row:
    """A row of the table, or a few that are measured together.

    `open` starts what all runs share and gives what measures one side.
    """

    name: str
    peer: str
    ours: str
    measures: Sequence[Measure]
    open: Callable[[Options], AbstractContextManager[MeasureSide]]


@dataclass(frozen=True)
class Result:
    """What was measured, and what is to be said of it."""

    measure: Measure
    peer: Sequence[float]
    ours: Sequence[float]
    #: How much of the machine others used before a run, at the most.
    busiest_percent: float

    @property
    def ratio(self) -> float:
        """How ours compares, by medians: see Kind."""
        ours = statistics.median(self.ours)
        peer = statistics.median(self.peer)
        return ours if self.measure.kind is Kind.LIMIT else ours / peer

    @property
    def verdict(self) -> str:
        """Whether the aim was met, or just the must, or neither."""
        if self._reaches(self.measure.aim):
            return "aim met"
        return "must met" if self._reaches(self.measure.must) else "missed"

    @property
    def times_as_good(self) -> float:
        """How many times as good ours is, in whichever direction is good."""
        if self.measure.kind is Kind.LIMIT:
            return self.measure.must / self.ratio
        return self.ratio if self.measure.kind is Kind.RATE else 1 / self.ratio

    def _reaches(self, bound: float) -> bool:
        return self.ratio >= bound if self.measure.kind is Kind.RATE else self.ratio <= bound


def rate(name: str, unit: str, must: float, aim: float) -> Measure:
    """Return a measure of which more is better."""
    return Measure(name, unit, Kind.RATE, must, aim)


def cost(name: str, unit: str, must: float, aim: float) -> Measure:
    """Return a measure of which less is better."""
    return Measure(name, unit, Kind.COST, must, aim)
