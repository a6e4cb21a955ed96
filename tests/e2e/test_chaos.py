"""The shop is broken for a few orders at a time; `make chaos` is the long form."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orderflow.sandbox.chaos.opening import open_stack
from orderflow.sandbox.chaos.run import Outcome, Plan, run_chaos, run_scenario, table
from orderflow.sandbox.chaos.scenarios import SCENARIOS
from orderflow.sandbox.chaos.stack import Stack
from orderflow.sandbox.chaos.verdict import Verdict
from orderflow.sandbox.servers import Server

_ORDERS = 30
#: Those that break most in the least time; `orderflow chaos` has them all.
_SCENARIOS = (
    *("one-key", "kill-api", "kill-workers", "crash-points"),
    *("flushall", "kill-redis", "redis-reset", "restart-postgres"),
    "postgres-failover",
)
#: Deaths are found out, and orders looked at, sooner than a shop would want it.
_QUICK = {
    "WORKER_LOCK_MS": "1500",
    "WORKER_STALLED_INTERVAL_MS": "500",
    "RECONCILE_INTERVAL_MS": "1000",
    "RECONCILE_GRACE_MS": "500",
    "SMTP_TIMEOUT_MS": "3000",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    postgres_server: Server,  # noqa: ARG001 - as root it makes a user, which two at once cannot
) -> AsyncIterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="orderflow-chaos-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in _QUICK.items():
            patch.setenv(name, value)
        async with open_stack(Path(folder)) as opened:
            yield opened


# All scenarios break the same shop, one after the other, as in `orderflow chaos`.
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", _SCENARIOS)
async def test_nothing_is_lost_or_done_twice(name: str, stack: Stack):
    outcome = await run_scenario(stack, SCENARIOS[name], orders=_ORDERS, seed=1)
    assert outcome.verdict.complaints == []
    assert outcome.verdict.orders >= _ORDERS


def test_a_shop_that_loses_orders_does_not_hold():
    verdict = Verdict(lost=["ada was told nothing"])
    outcome = Outcome(SCENARIOS["flushall"], 1, verdict, 12.0)
    assert table([outcome])[1].split() == [
        "flushall",
        "1",
        "0",
        "1",
        "0",
        "0",
        "12",
        "ms",
        "0.0",
        "s",
    ]
    assert not verdict.holds


def test_what_cannot_be_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert run_chaos(Plan(("no-such",))) == 2
    assert "no such scenario: no-such; there are one-key, " in capfd.readouterr().out
    (tmp_path / "mail").mkdir()
    assert run_chaos(Plan(("flushall",), folder=tmp_path)) == 2
    assert "is not empty" in capfd.readouterr().out


def test_the_scenarios_are_listed():
    listed = subprocess.run(
        [sys.executable, "-m", "orderflow.cli", "chaos", "--list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(SCENARIOS)
