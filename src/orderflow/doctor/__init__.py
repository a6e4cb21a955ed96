"""The doctor: says what is wrong or risky about Redis, PostgreSQL, the queues and the gateway.

Every check is a function that returns findings; the list of each module says which run, and in
what order. A server that is away is a finding of its own, and the other server is looked at all
the same. Nothing is written anywhere, and no finding holds a password.
"""

from __future__ import annotations

from collections.abc import Iterable

from orderflow.doctor.findings import EXIT_STATUS, Finding, Findings, Severity
from orderflow.doctor.gateway import examine_gateway
from orderflow.doctor.postgres import examine_postgres
from orderflow.doctor.redis import examine_redis
from orderflow.settings import Settings

__all__ = ["EXIT_STATUS", "Finding", "Severity", "examine", "worst"]


async def examine(settings: Settings) -> Findings:
    """Run every check and return what each found, in order."""
    return [
        *await examine_redis(settings),
        *await examine_postgres(settings),
        *examine_gateway(settings),
    ]


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the worst severity among the findings."""
    return max((f.severity for f in findings), key=list(Severity).index, default=Severity.OK)
