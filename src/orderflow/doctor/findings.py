"""What a check of the doctor finds, and how checks are run."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

#: The longest wait for one answer: more than a server that is well needs.
PATIENCE_MS = 3_000
_CLOCK_WARNING_S, _CLOCK_ERROR_S = 1.0, 5.0
_NAMED_AT_MOST = 10


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


#: What `orderflow doctor` exits with, by its worst finding.
EXIT_STATUS = {Severity.OK: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it; `fix` is empty where nothing is to be done."""

    check: str
    severity: Severity
    message: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding by its fields."""
        return asdict(self)


Findings = list[Finding]


Site = TypeVar("Site")


async def run_checks(
    checks: Sequence[Callable[[Site], Awaitable[Findings]]],
    site: Site,
    away: tuple[type[Exception], ...],
    refused: type[Exception],
    findings: Findings,
) -> None:
    """Run the checks; one that the server refuses to answer is a warning, and the rest goes on."""
    for check in checks:
        try:
            findings += await check(site)
        except away:
            raise
        except refused as error:
            findings.append(
                warn(
                    check.__name__.replace("_", "-"),
                    f"This could not be looked at: {reason_of(error)}",
                    "Give the user of orderflow the right to ask, or look by hand",
                )
            )


async def compare_clocks(name: str, server: str, ask: Callable[[], Awaitable[float]]) -> Findings:
    """Say how far the clock that `ask` tells is from that of this machine."""
    before = time.time()
    theirs = await ask()
    after = time.time()
    apart = theirs - (before + after) / 2
    # What the way to the server and back took may be all of the difference.
    surely = abs(apart) - (after - before) / 2
    if surely <= _CLOCK_WARNING_S:
        return [ok(name, f"The clock of {server} is that of this machine")]
    direction = "ahead of" if apart > 0 else "behind"
    return [
        Finding(
            name,
            Severity.ERROR if surely > _CLOCK_ERROR_S else Severity.WARNING,
            f"The clock of {server} is {abs(apart):.1f} s {direction} that of this machine: delays "
            "and backoffs are off by as much",
            "Run a time service, as chrony, on both machines",
        )
    ]


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def listed(values: Iterable[object]) -> str:
    """Return the first of the values as text, and how many more there are."""
    shown = [str(value) for value in values]
    more = len(shown) - _NAMED_AT_MOST
    return ", ".join(shown[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def reason_of(error: Exception) -> str:
    """Return the kind of an error and what it says; neither client tells a password."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def unreadable(check: str, variable: str) -> Finding:
    """Say that a setting is no URL, without showing it."""
    return fail(
        check,
        f"{variable} is not a URL that can be read",
        "Look at its parameters, after the question mark",
    )


def ok(check: str, message: str) -> Finding:
    """Say that this is as it should be."""
    return Finding(check, Severity.OK, message)


def warn(check: str, message: str, fix: str) -> Finding:
    """Say that this is risky, and what to do."""
    return Finding(check, Severity.WARNING, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """Say that this is wrong, and what to do."""
    return Finding(check, Severity.ERROR, message, fix)
