"""The commands of the docs are run as a reader would paste them, in a shop that is open."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from tests.commands import Command, shown_commands
from tests.conftest import CATALOGUE, SECRET, process_environment, start_program, wait_until
from tests.e2e.conftest import ShopProcesses

from orderflow.operations.audit import Actor
from orderflow.operations.failures import list_groups
from orderflow.resources import Resources
from orderflow.sandbox.servers import Server, free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings
from orderflow.webhooks.endpoints import add_endpoint
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import Targets

#: What begins a command that is not run here, and why not. What it names is looked up all the same,
#: in tests/unit/test_docs.py.
NOT_RUN = {
    r"systemctl |journalctl |systemctl|for port in ": "needs systemd, and what is installed there",
    r"dmesg ": "reads the log of a kernel",
    r"set -a; \. /etc/|install |cp |cd deploy|python3 -m venv /opt|/opt/": "changes the machine",
    r"apt-get ": "installs a package of the system",
    r"docker |printf |chmod |sed -i .*\.env$": "needs a container engine",
    r"kubectl ": "needs a cluster",
    r"pip install ": "test_up.py installs the package, and needs the Internet for it",
    r"orderflow top": "goes on in a terminal, which test_cli.py gives it",
    r"make run": "test_up.py runs it in a fresh clone",
    r"make (?!run)": "takes minutes, or is what runs this",
    r"\.venv/bin/python -m tests\.mutate ": "takes minutes",
    r"(\S+=\S+ )*orderflow (chaos|chaos --scenario .*|rehearse.*)$": "takes minutes",
    r"orderflow up|python -m orderflow\.sandbox\.recording": "test_up.py, test_rehearsal.py do",
    r"pg_basebackup ": "leaves words out",
    r"git ": "changes a repository",
    r".* --processes ": "test_processes.py runs many of a worker",
}
#: These go on until they are told to end.
GOES_ON = re.compile(r"python -m orderflow\.(api|worker|exporter|sandbox\.\w+)\b|curl -N")
#: What a command may end with that is not to end with 0.
ENDS = {
    r"curl -N": {-signal.SIGTERM},
    # It finds something: the servers of tests are not durable, and a job has failed.
    r"orderflow doctor": {0, 1},
}


@dataclass(frozen=True)
class Desk:
    """Where the commands are typed, and what is typed for what the docs leave to the reader."""

    folder: Path
    environment: Mapping[str, str]
    words: Mapping[str, str]

    def typed(self, text: str) -> str:
        for written, meant in self.words.items():
            text = re.sub(rf"(?<![$\w]){re.escape(written)}(?!\w)", meant, text)
        return text

    def run(self, command: Command) -> str | None:
        """Run a command to its end; return what is wrong, if something is."""
        log = self.folder / "said.log"
        process = self._start(command.text, log)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return self._fault(command, status, log)

    def follow(self, command: Command) -> str | None:
        """Run a command until it is at work, and end it; return what is wrong, if something is."""
        log = self.folder / "said.log"
        process = self._start(f"exec {command.text}", log)
        try:
            wait_until(
                lambda: process.poll() is not None or is_at_work(process.pid, log), str(command)
            )
            process.terminate()
            status = process.wait(30)
        finally:
            process.kill()
        return self._fault(command, status, log)

    def _start(self, text: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["bash", "-c", self.typed(text)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _fault(self, command: Command, status: int, log: Path) -> str | None:
        wanted = next((each for kind, each in ENDS.items() if re.search(kind, command.text)), {0})
        return None if status in wanted else f"{command}: status {status}\n{log.read_text()}"


def is_at_work(pid: int, log: Path) -> bool:
    """Say whether a worker works, something is told, or a server listens."""
    if re.search(r"worker started|event: status", log.read_text()):
        return True
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return any(each.status == "LISTEN" for one in processes for each in one.net_connections())


@pytest.fixture
def exporter_port(closed_shop: ShopProcesses, settings: Settings) -> Iterator[int]:
    port = free_port()
    exporter = start_program(
        closed_shop.folder / "exporter.log",
        "orderflow.exporter",
        environment=process_environment(settings) | {"EXPORTER_PORT": str(port)},
    )
    wait_until(lambda: port_is_taken(port), "the exporter")
    yield port
    exporter.stop()


@pytest.fixture
def open_shop(closed_shop: ShopProcesses, tmp_path: Path) -> Iterator[ShopProcesses]:
    """A shop whose gateway takes its money alone, or its books would differ."""
    port = free_port()
    gateway = start_program(
        tmp_path / "gateway.log",
        "orderflow.sandbox.gateway",
        *("--port", str(port), "--ledger", str(tmp_path / "books.sqlite3")),
    )
    wait_until(lambda: port_is_taken(port), "the gateway")
    closed_shop.environment["GATEWAY_URL"] = f"http://127.0.0.1:{port}"
    closed_shop.start("payment", "notification", "order", "api")
    yield closed_shop
    gateway.stop()


@pytest.fixture
async def desk(
    open_shop: ShopProcesses,
    exporter_port: int,
    resources: Resources,
    postgres_server: Server,
    tmp_path: Path,
) -> Desk:
    """A folder with a catalogue, an order that is paid, a job that failed, and an endpoint."""
    order_id = open_shop.checkout()["orderId"]
    open_shop.wait_for(order_id, "confirmed")
    await resources.queues.queue("payment-processing").add("no such job", {}, {"attempts": 1})
    told = await add_endpoint(
        *("https://localhost/hooks", [EventType.CONFIRMED], "", Actor("ada", "cli")),
        db=resources.db,
        targets=Targets(allow_private=True),
    )
    async with asyncio.timeout(30):
        while not (groups := await list_groups(db=resources.db)):
            await asyncio.sleep(0.01)
    folder = tmp_path / "desk"
    folder.mkdir()
    shutil.copy(CATALOGUE, folder / "catalogue.csv")
    server = urlsplit(postgres_server.url)
    programs = (Path(sys.executable).parent, Path(postgres_server.process.args[0]).parent)
    environment = open_shop.environment | {
        "HOME": str(folder),
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "PGHOST": str(server.hostname),
        "PGPORT": str(server.port),
        "PGUSER": str(server.username),
        "TOKEN": make_token(SECRET, "user-1"),
        "ORDER": order_id,
        "WEBHOOKS_ALLOW_PRIVATE": "true",
        # For what is started beside the shop.
        "PORT": str(free_port()),
        "EXPORTER_PORT": str(free_port()),
    }
    words = {
        "127.0.0.1:8000": f"127.0.0.1:{open_shop.port}",
        "127.0.0.1:9100": f"127.0.0.1:{exporter_port}",
        "127.0.0.1:6390": urlsplit(open_shop.environment["REDIS_URL"]).netloc,
        "erp.shop.example": "localhost",
        "--port 8010": f"--port {free_port()}",
        "--port 8025": f"--port {free_port()}",
        "019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b": order_id,
        "orders ORDER": f"orders {order_id}",
        "failures GROUP": f"failures {groups[0].fingerprint}",
        "deliveries ENDPOINT": f"deliveries {told.endpoint.id}",
        "forget USER": "forget user-2",
        "name=bull:": f"name={open_shop.environment['QUEUE_PREFIX']}:",
        "redis-cli CLIENT": 'redis-cli -u "$REDIS_URL" CLIENT',
    }
    return Desk(folder, environment, words)


def test_what_can_be_run_here_is_and_ends_well(desk: Desk):
    # Those that differ in what is said of them are one.
    commands = {command.text.partition(" #")[0].strip(): command for command in shown_commands()}
    run = [each for text, each in commands.items() if not any(re.match(no, text) for no in NOT_RUN)]
    assert len(run) > 40
    said = [desk.follow(each) if GOES_ON.match(each.text) else desk.run(each) for each in run]
    assert "\n".join(filter(None, said)) == ""
    assert "no queue" in (desk.run(Command("docs/x.md", 1, "orderflow queues payment")) or "")


def test_every_reason_not_to_run_a_command_is_needed():
    texts = [command.text for command in shown_commands()]
    assert [kind for kind in NOT_RUN if not any(re.match(kind, text) for text in texts)] == []
