"""The commands of operators, run as they are: what they print, ask, and end with."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.conftest import process_environment
from tests.integration.cli import Run, run_command, shown
from tests.integration.conftest import PlaceOrder
from tests.integration.working import add, until, working

from orderflow.contract import QueueName
from orderflow.operations.audit import list_actions
from orderflow.operations.failures import list_groups
from orderflow.operations.queues import get_queue
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LOGNAME": "ada", **process_environment(settings)}


@pytest.fixture
def orderflow(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run `orderflow ARGS`, without a terminal."""

    def run(*args: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return run_command(*args, folder=tmp_path, environment=environment | changes)

    return run


async def fail(_delivery: object) -> dict[str, Any]:
    raise ValueError("the cook is out, says ada@shop.example")


@pytest.fixture
async def failed(resources: Resources) -> str:
    """Three jobs that failed in one way; the fingerprint of their group."""
    return await fail_jobs(resources, range(3))


async def fail_jobs(resources: Resources, numbers: range) -> str:
    """Have jobs fail in the one way; return the fingerprint of their group."""
    for n in numbers:
        await add(resources, QueueName.PAYMENTS, f"j{n}", {"orderId": f"o-{n}"})
    async with working(resources, QueueName.PAYMENTS, fail):
        (group,) = await until(lambda: _group(resources, numbers.stop))
    fingerprint: str = group.fingerprint
    return fingerprint


async def _group(resources: Resources, failures: int) -> Any:
    groups = await list_groups(db=resources.db)
    return groups if sum(group.failures for group in groups) == failures else None


async def test_tables_for_people_and_json_for_programs(
    orderflow: Run, resources: Resources, failed: str
) -> None:
    for n in range(2):
        await add(resources, QueueName.PAYMENTS, f"w{n}", priority=1)

    table = orderflow("queues")
    assert table.returncode == 0
    heads, *lines = table.stdout.splitlines()
    assert heads.split()[:5] == ["queue", "waiting", "active", "delayed", "failed"]
    assert [line.split()[0] for line in lines] == [queue.value for queue in QueueName]
    assert lines[0].split()[1:5] == ["2", "0", "0", "3"]
    assert "\x1b" not in table.stdout

    queue = shown(orderflow("queues", "payment-processing", "--json"))
    assert (queue["counts"]["waiting"], queue["counts"]["failed"]) == (2, 3)
    page = shown(orderflow("jobs", "payment-processing", "--state", "failed", "--json"))
    assert sorted(job["id"] for job in page["jobs"]) == ["j0", "j1", "j2"]
    waiting = orderflow("jobs", "payment-processing")
    assert "1 to 2 of 2 waiting" in waiting.stdout
    job = orderflow("jobs", "payment-processing", "j0")
    assert "the cook is out, says ***@***" in job.stdout
    assert "ada@shop.example" not in job.stdout
    (group,) = shown(orderflow("failures", "--json", "--within", "1h"))
    assert group["fingerprint"] == failed
    (line,) = orderflow("failures").stdout.splitlines()[1:]
    assert failed in line
    one = orderflow("failures", failed)
    assert "3 failures in payment-processing, 3 of them final" in one.stdout
    fleet = shown(orderflow("workers", "--json"))
    assert fleet == {"workers": [], "unclaimed": []}


async def test_orders_are_found_and_told(orderflow: Run, place: PlaceOrder) -> None:
    first = await place()
    story = shown(orderflow("orders", "ada@shop.example", "--json"))
    assert story["orderId"] == str(first.order_id)
    told = orderflow("orders", f"payment-{first.payment_id}")
    assert "the order was placed" in told.stdout
    second = await place()
    both = shown(orderflow("orders", "user-1", "--json"))
    assert [order["id"] for order in both] == [str(second.order_id), str(first.order_id)]
    table = orderflow("orders", "user-1").stdout
    assert str(first.order_id) in table
    assert str(second.order_id) in table


async def test_what_is_dangerous_is_refused_without_a_terminal_or_yes(
    orderflow: Run, resources: Resources, failed: str
) -> None:
    for command in (
        ("pause", "payment-processing"),
        ("drain", "payment-processing"),
        ("clean", "payment-processing", "--state", "failed"),
        ("remove", "payment-processing", "j0"),
        ("retry-group", failed),
        ("discard-group", failed),
    ):
        refused = orderflow(*command)
        assert refused.returncode == 2, command
        assert "--yes" in refused.stderr
    queue = await get_queue(QueueName.PAYMENTS, queues=resources.queues)
    assert (queue.paused, queue.counts["failed"]) == (False, 3)
    assert await list_actions(db=resources.db) == []


async def test_with_yes_it_is_done_and_written_down(
    orderflow: Run, resources: Resources, failed: str
) -> None:
    paused = orderflow("pause", "payment-processing", "--yes", "--reason", "the gateway moves")
    assert "paused" in paused.stdout
    (action,) = await list_actions(db=resources.db)
    assert action.user.startswith("ada@")
    assert (action.via, action.reason) == ("cli", "the gateway moves")
    assert "paused" not in orderflow("resume", "payment-processing").stdout

    limited = shown(
        orderflow("limit", "payment-processing", "--rate", "5/0.5", "--concurrency", "2", "--json")
    )
    assert limited["rateLimit"] == {"max": 5, "durationMs": 500}
    assert limited["concurrency"] == 2
    off = shown(
        orderflow("limit", "payment-processing", "--rate", "off", "--concurrency", "off", "--json")
    )
    assert (off["rateLimit"], off["concurrency"]) == (None, None)

    dry = shown(orderflow("retry-group", failed, "--dry-run", "--json"))
    assert (dry["would"], dry["jobs"]) == (3, 3)
    trial = orderflow("discard-group", failed, "--dry-run").stdout
    assert "3 of 3 jobs of payment-processing would be removed" in trial
    assert "j0 is removed" in orderflow("remove", "payment-processing", "j0", "--yes").stdout
    assert "waits" in orderflow("retry", "payment-processing", "j1").stdout
    done = orderflow("retry-group", failed, "--yes", "--rate", "1000")
    assert done.returncode == 0
    assert "done: 1 jobs retried" in done.stdout
    assert "1 removed, 1 waiting" in done.stdout
    assert failed in orderflow("bulk").stdout
    drained = shown(orderflow("drain", "payment-processing", "--yes", "--json"))
    assert drained == {"removed": 2, "left": 0}
    told = shown(orderflow("audit", "--json"))
    assert {action["via"] for action in told} == {"cli"}
    assert [action["action"] for action in reversed(told)] == [
        *("pause", "resume", "set rate limit", "set concurrency"),
        *("set rate limit", "set concurrency", "remove", "retry", "retry group", "drain"),
    ]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("queues", "payments"), 1, "these are known: payment-processing"),
        (("jobs", "payment-processing", "--state", "done"), 1, "its states are: waiting"),
        (("jobs", "payment-processing", "none"), 1, "no job 'none'"),
        (("retry", "payment-processing", "none"), 1, "no job 'none'"),
        (("retry", "payment-processing", "none", "--data", "{"), 2, "--data: must be JSON"),
        (("failures", "0123456789abcdef"), 1, "no group of failures"),
        (("failures", "--queue", "payments"), 1, "these are known"),
        (("failures", "--within", "soon"), 2, "--within: must be a number of seconds"),
        (("discard-group", "none", "--yes"), 1, "no group of failures"),
        (("bulk", "none"), 1, "no bulk action 'none'"),
        (("orders", "nobody@shop.example"), 1, "no order"),
        (("limit", "payment-processing"), 2, "--rate, --concurrency"),
        (("limit", "payment-processing", "--rate", "fast"), 2, "--rate: must be MAX/SECONDS"),
        (("jobs", "payment-processing", "--limit", "0"), 2, "--limit"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_told_in_a_line_with_a_status(
    orderflow: Run, args: tuple[str, ...], status: int, said: str
) -> None:
    done = orderflow(*args)

    assert (done.returncode, done.stdout) == (status, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_server_that_is_away_is_told(orderflow: Run) -> None:
    away = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = orderflow("queues", **away)
    assert done.returncode == 2
    assert done.stderr.startswith("ConnectionError")
    url = {"DATABASE_URL": f"postgresql://ada:hunter2@127.0.0.1:{free_port()}/none"}
    done = orderflow("failures", **url)
    assert done.returncode == 2
    assert "PostgreSQL does not answer" in done.stderr
    assert "hunter2" not in done.stderr
    top = orderflow("top", "--times", "1", **away)
    assert top.returncode == 0
    assert "Redis does not answer" in top.stdout


async def test_top_shows_the_shop_again_and_again(
    orderflow: Run, resources: Resources, failed: str
) -> None:
    looks = orderflow("top", "--json", "--times", "3", "--every", "0.2")
    lines = [json.loads(line) for line in looks.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[-1]["queues"][0]["counts"]["failed"] == 3
    assert lines[-1]["perSecond"]["payment-processing"] == {"completed": 0, "failed": 0}
    assert lines[-1]["groups"][0]["fingerprint"] == failed
    screen = orderflow("top", "--times", "1").stdout
    assert "payment-processing" in screen
    assert failed in screen
    assert resources


def in_a_terminal(
    command: list[str], environment: dict[str, str], wanted: str, typed: str
) -> tuple[int, str]:
    """Run a command in a terminal, and type something once it has said what is wanted: a regex."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "orderflow.cli", *command],
        env=environment,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    try:
        said = _said(process, ours, wanted, typed)
        return process.wait(30), said.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def _said(process: subprocess.Popen[bytes], ours: int, wanted: str, typed: str) -> bytes:
    """Return all that a process says to its end."""
    said = b""
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, said
        ready, _, _ = select.select([ours], [], [], 0.1)
        try:
            said += os.read(ours, 65_536) if ready else b""
        except OSError:  # the other end is closed
            return said
        if typed and re.search(wanted.encode(), said):
            if typed == CTRL_C:
                process.send_signal(signal.SIGINT)
            else:
                os.write(ours, typed.encode())
            typed = ""


CTRL_C = "\x03"


async def test_a_person_is_asked(environment: dict[str, str], resources: Resources) -> None:
    question = re.escape("Pause it? [y/N]:")
    status, said = in_a_terminal(["pause", "notifications"], environment, question, "n\n")
    assert status == 1
    assert "nothing was changed" in said
    assert not (await get_queue("notifications", queues=resources.queues)).paused
    status, said = in_a_terminal(["pause", "notifications"], environment, question, "y\n")
    assert status == 0
    assert (await get_queue("notifications", queues=resources.queues)).paused


async def test_ctrl_c_ends_top_and_stops_a_bulk_action(
    environment: dict[str, str], resources: Resources, failed: str, redis: Redis
) -> None:
    status, _ = in_a_terminal(["top"], environment, "payment-processing", CTRL_C)
    assert status == 0
    # So many that it has long to go, however late we see that it has begun.
    await fail_jobs(resources, range(3, 40))
    status, said = in_a_terminal(
        ["retry-group", failed, "--yes", "--rate", "1"], environment, r"[1-9]\d*/40", CTRL_C
    )
    assert status == 130, said
    assert "interrupted" in said
    (action,) = await list_actions(db=resources.db)
    assert action.outcome == "stopped"
    assert redis


def test_the_shell_completes_commands(environment: dict[str, str]) -> None:
    asked = subprocess.run(
        [Path(sys.executable).with_name("orderflow")],
        env=environment
        | {
            "_ORDERFLOW_COMPLETE": "complete_bash",
            "COMP_WORDS": "orderflow retr",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split() == ["retry", "retry-group"]
