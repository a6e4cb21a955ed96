"""The shop is broken in every way there is, for a few orders; `make chaos` is the long form."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orderflow.sandbox.chaos.opening import open_stack
from orderflow.sandbox.chaos.run import run_scenario
from orderflow.sandbox.chaos.scenarios import SCENARIOS
from orderflow.sandbox.chaos.stack import Stack
from orderflow.sandbox.servers import Server

# All scenarios break the same shop, one after the other, as in `orderflow chaos`.
pytestmark = pytest.mark.asyncio(loop_scope="module")

_ORDERS = 30
#: Deaths are found out, and orders looked at, sooner than a shop would want it.
_QUICK = {
    "WORKER_LOCK_MS": "1500",
    "WORKER_STALLED_INTERVAL_MS": "500",
    "RECONCILE_INTERVAL_MS": "1000",
    "RECONCILE_GRACE_MS": "500",
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


@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_is_lost_or_done_twice(name: str, stack: Stack):
    outcome = await run_scenario(stack, SCENARIOS[name], orders=_ORDERS, seed=1)
    assert outcome.verdict.complaints == []
    assert outcome.verdict.orders >= _ORDERS
