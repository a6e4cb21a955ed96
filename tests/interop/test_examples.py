"""The example of a producer in Node, run as it is told to be."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import wait_until
from tests.interop.bridge import FOLDER
from tests.interop.conftest import foreign_id

EXAMPLE = Path(__file__).parents[2] / "examples" / "node-producer"


async def test_a_producer_in_node_has_an_order_charged(
    node_program: str,
    settings: Any,
    start_worker: Any,
    gateway_server: Any,
    keys: Any,
    sql: Any,
    tmp_path: Path,
) -> None:
    here = tmp_path / "node-producer"
    shutil.copytree(EXAMPLE, here, ignore=shutil.ignore_patterns("node_modules"))
    # The packages that it asks for are those of these tests.
    asked = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]
    ours = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert asked.items() <= ours.items()
    (here / "node_modules").symlink_to(FOLDER / "node_modules")
    payment_id, order_id = str(foreign_id()), str(foreign_id())

    def add() -> str:
        return subprocess.run(
            [node_program, "add.mjs", payment_id, order_id, "card", "19.99"],
            cwd=here,
            env={"REDIS_URL": settings.redis_dsn, "QUEUE_PREFIX": settings.queue_prefix},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    assert add() == add() == f"added payment-{payment_id}\n"
    assert keys("payment-processing").count("prioritized") == 1
    start_worker("payment")
    wait_until(lambda: gateway_server.charge(payment_id) is not None, "the charge")
    assert gateway_server.charge(payment_id)["amount"] == "19.99"
    keys("payment-processing").wait_for("completed", 1)
    assert await sql.fetchval("SELECT status FROM orders WHERE external_id = $1", order_id) == (
        "confirmed"
    )
