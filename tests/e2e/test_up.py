"""`orderflow up` and `make run`, as a newcomer uses them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from tests.conftest import SECRET, Program, process_environment, start_program, wait_until

from orderflow.sandbox.servers import free_port, port_is_taken

REPOSITORY = Path(__file__).parents[2]


def leftovers(folder: Path) -> list[str]:
    """Return the command lines of processes that work in, or on, this folder."""
    lines = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command:
            lines.append(command)
    return lines


def ports() -> dict[str, str]:
    names = ("PORT", "EXPORTER_PORT", "SMTP_PORT")
    return {name: str(free_port()) for name in names}


@contextmanager
def running_up(folder: Path, *options: str) -> Iterator[Program]:
    program = start_program(
        folder / "up.log",
        *("orderflow.cli", "up", *options, "--data", str(folder / "data")),
        environment=ports(),
    )
    yield program
    program.process.send_signal(signal.SIGINT)
    program.process.wait(30)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Program]:
    with running_up(tmp_path, "--monitoring") as program:
        yield program


def said(program: Program) -> str:
    return program.log.read_text()


def test_it_runs_until_ctrl_c_and_again_from_the_kept_data(tmp_path: Path, up: Program):
    wait_until(lambda: "Ctrl-C ends it all" in said(up), "the welcome", 60)
    steps = re.findall(r"^ +\d+ ms  (\w+)", said(up), re.MULTILINE)
    assert steps == ["202", "charged", "confirmed", "mailed"]
    assert re.search(r"mailed +“Your order \S+ is confirmed” to ada@shop.example", said(up))

    [curl] = [line for line in said(up).splitlines() if line.startswith("curl ")]
    pasted = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    assert "202" in pasted.stdout.splitlines()[0]
    [docs] = re.findall(r"API +(http\S+/docs)", said(up))
    assert httpx.get(docs, trust_env=False).status_code == 200
    [demo] = re.findall(r"shop +(http\S+/demo)", said(up))
    assert "Glass teapot" in httpx.get(demo, trust_env=False).text
    [admin] = re.findall(r"operators +(http\S+/admin)", said(up))
    [token] = re.findall(r"One of an admin.*:\s+(\S+)", said(up))
    signed_in = httpx.get(admin, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert "payment-processing" in signed_in.text
    [metrics] = re.findall(r"metrics +(http\S+)", said(up))
    assert "bullmq_job_count" in httpx.get(metrics, trust_env=False).text
    [prometheus] = re.findall(r"Prometheus +(http\S+)/alerts", said(up))
    programs = ("exporter", "api", "payment", "notification", "order")
    every_one = {f"orderflow-{name}": "up" for name in programs}
    wait_until(lambda: scraped(prometheus) == every_one, "a scrape of every program")
    # Its own line names the folder; the servers and programs it started do too.
    assert len(leftovers(tmp_path)) > 3

    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(40) == 0
    assert "Stopped." in said(up)
    assert leftovers(tmp_path) == []

    # A usual port that is taken is replaced by another.
    with taking_port_8000():
        again = start_program(
            tmp_path / "again.log",
            *("orderflow.cli", "up", "--once", "--data", str(tmp_path / "data")),
            environment={name: port for name, port in ports().items() if name != "PORT"},
        )
        assert again.process.wait(60) == 0, said(again)
    assert "Port 8000 is taken, so PORT is" in said(again)
    assert "migrated" not in said(again)
    assert "Catalogue" not in said(again)
    orders = {re.search(r"order (\S+),", said(program))[1] for program in (up, again)}
    assert len(orders) == 2
    assert leftovers(tmp_path) == []


def scraped(prometheus: str) -> dict[str, str]:
    """Return how each program is that Prometheus watches."""
    answer = httpx.get(f"{prometheus}/api/v1/targets", trust_env=False).json()
    return {target["labels"]["job"]: target["health"] for target in answer["data"]["activeTargets"]}


@contextmanager
def taking_port_8000() -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Where someone else has it already, that does as well.
        with suppress(OSError):
            listener.bind(("127.0.0.1", 8000))
            listener.listen()
        yield


def test_programs_have_as_many_processes_as_is_asked_for_and_one_that_dies_ends_all(
    tmp_path: Path,
):
    with running_up(tmp_path, "--scale", "payment=2,api=2") as program:
        wait_until(lambda: "Ctrl-C ends it all" in said(program), "the welcome", 60)
        programs = psutil.Process(program.process.pid).children()
        many = {
            name: len(each.children())
            for each in programs
            for name in ("orderflow.api", "payment", "notification")
            if name in each.cmdline()
        }
        # uvicorn's parent has a process beside those that serve.
        assert many["orderflow.api"] >= 2
        assert many["payment"] == 2
        assert many["notification"] == 0

        [exporter] = [each for each in programs if "orderflow.exporter" in each.cmdline()]
        exporter.kill()
        assert program.process.wait(40) == 1
        assert "exporter ended with status -9" in said(program)
    assert leftovers(tmp_path) == []


def test_a_program_that_cannot_be_many_is_told_before_anything_starts(tmp_path: Path):
    program = start_program(
        tmp_path / "up.log",
        *("orderflow.cli", "up", "--scale", "paiment=2", "--data", str(tmp_path / "data")),
        environment=ports(),
    )
    assert program.process.wait(60) == 2
    assert said(program) == (
        "orderflow up: --scale paiment=2: these can be many: api, payment, notification, order\n"
    )
    assert not (tmp_path / "data").exists()


def test_honcho_runs_the_procfile(tmp_path: Path, settings):
    port, exporter_port = free_port(), free_port()
    own = process_environment(settings) | {
        "JWT_SECRET": SECRET,
        "EXPORTER_PORT": str(exporter_port),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    program = start_program(
        tmp_path / "honcho.log",
        *("honcho", "--procfile", str(REPOSITORY / "Procfile"), "start", "--port", str(port)),
        environment=own,
    )
    wait_until(lambda: port_is_taken(port), "the API")
    wait_until(lambda: port_is_taken(exporter_port), "the exporter")
    wait_until(lambda: said(program).count("worker started") == 3, "the workers")
    # 143 is its own way to say that it was asked to; it reads on until each has drained.
    assert program.stop() == 143, said(program)
    assert said(program).count("worker stopped") == 3


def test_servers_that_are_named_are_used(tmp_path: Path, settings):
    program = start_program(
        tmp_path / "up.log",
        *("orderflow.cli", "up", "--once", "--data", str(tmp_path / "data")),
        environment=ports()
        | {
            "REDIS_URL": settings.redis_dsn,
            "DATABASE_URL": settings.database_dsn,
            "QUEUE_PREFIX": settings.queue_prefix,
        },
    )
    assert program.process.wait(60) == 0, said(program)
    assert "Using the Redis that the settings name" in said(program)
    assert "Using the PostgreSQL that DATABASE_URL names" in said(program)
    assert not (tmp_path / "data" / "redis").exists()


def test_a_server_that_is_named_but_away_is_told(tmp_path: Path):
    program = start_program(
        tmp_path / "up.log",
        *("orderflow.cli", "up", "--once", "--data", str(tmp_path / "data")),
        environment=ports() | {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/d"},
    )
    assert program.process.wait(60) == 1
    assert "PostgreSQL does not answer: ConnectionRefusedError" in said(program)
    assert "Traceback" not in said(program)
    assert "hunter2" not in said(program)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"TWILIO_ACCOUNT_SID": f"AC{'0' * 32}", "TWILIO_AUTH_TOKEN": "t", "TWILIO_FROM": "S"},
            "TWILIO_ACCOUNT_SID: no SMS leaves this machine",
        ),
        ({"MAIL_FILE": "-"}, "MAIL_FILE: mails go to the catcher here"),
    ],
    ids=["sms", "mail"],
)
def test_no_message_goes_past_the_catcher(tmp_path: Path, given: dict[str, str], told: str):
    program = start_program(
        tmp_path / "up.log",
        *("orderflow.cli", "up", "--data", str(tmp_path / "data")),
        environment=given,
    )
    assert program.process.wait(60) == 1
    assert told in program.log.read_text()
    assert not leftovers(tmp_path)


def test_a_port_that_is_asked_for_and_taken(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = start_program(
            tmp_path / "up.log",
            *("orderflow.cli", "up", "--once", "--data", str(tmp_path / "data")),
            environment=ports() | {"PORT": port},
        )
        assert program.process.wait(60) == 1
        assert f"PORT: port {port} is taken; choose another" in said(program)


def test_a_prometheus_that_is_not_there_is_told_before_anything_starts(tmp_path: Path):
    program = start_program(
        tmp_path / "up.log",
        *("orderflow.cli", "up", "--monitoring", "--data", str(tmp_path / "data")),
        environment=ports() | {"PATH": str(Path(sys.executable).parent)},
    )
    assert program.process.wait(60) == 1
    assert said(program).startswith("orderflow up: prometheus is not on this machine: install")
    assert not (tmp_path / "data").exists()


def test_make_run_in_a_fresh_clone(clone: Path):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("VIRTUAL_ENV")
    }
    made = subprocess.run(
        ["make", "run", "ARGS=--once", f"PYTHON={sys.base_prefix}/bin/python3"],
        cwd=clone,
        env=environment | ports(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Installing" in made.stdout
    assert re.search(r"mailed +“Your order", made.stdout)
    assert leftovers(clone) == []
