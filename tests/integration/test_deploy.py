"""What runs orderflow elsewhere: units that systemd takes, and an image that is not root."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.conftest import SECRET, process_environment, wait_until

from orderflow.sandbox.servers import free_port, port_is_taken

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = (
    "orderflow-api",
    "orderflow-api@8001",
    "orderflow-exporter",
    "orderflow-worker@payment",
)
#: Of 10, on systemd's own scale of what a service could do to its machine.
MOST_EXPOSURE = 1.5


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are installed, but with a Python that exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not on this machine")
    folder = tmp_path / "units"
    shutil.copytree(DEPLOY / "systemd", folder)
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/orderflow/bin/python", sys.executable))
    return folder


def analyze(units: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *args],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("unit", [*(f"{unit}.service" for unit in UNITS), "orderflow.target"])
def test_systemd_takes_the_unit(units, unit):
    verified = analyze(units, "verify", "--man=no", unit)
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize(
    "unit", ["orderflow-api", "orderflow-api@", "orderflow-exporter", "orderflow-worker@"]
)
def test_a_service_can_do_little_to_its_machine(units, unit):
    threshold = f"--threshold={MOST_EXPOSURE * 10:.0f}"
    file = str(units / f"{unit}.service")
    judged = analyze(units, "security", "--offline=true", "--no-pager", threshold, file)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_what_the_units_start_exists():
    started = {
        module
        for unit in (DEPLOY / "systemd").glob("*.service")
        for module in re.findall(r"^ExecStart=.*? -m (\S+)", unit.read_text(), re.MULTILINE)
    }
    assert started == {"orderflow.api", "orderflow.exporter", "orderflow.worker"}
    assert all(map(importlib.util.find_spec, started))


def instructions() -> list[tuple[str, str]]:
    """Return what the Containerfile says, in order: each word with the rest of its line."""
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def last_stage() -> dict[str, str]:
    said = instructions()
    begin = max(n for n, (word, _) in enumerate(said) if word == "FROM")
    return dict(said[begin:])


def copied() -> list[str]:
    return [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]


def test_the_image_is_not_root_and_brings_no_tools():
    said = instructions()
    known = {"ARG", "FROM", "WORKDIR", "COPY", "ENV", "RUN", "USER", "STOPSIGNAL", "EXPOSE"}
    assert {word for word, _ in said} == known | {"ENTRYPOINT", "CMD"}
    stage = last_stage()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    # Only what was built: no pip, no source, nothing that was fetched on the way.
    assert stage["COPY"] == "--from=build /opt/orderflow /opt/orderflow"
    assert "RUN" not in stage
    [base] = [rest for word, rest in said if word == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-\w+", base)
    assert [rest.split()[0] for word, rest in said if word == "FROM"] == ["${PYTHON}"] * 2


def test_all_that_the_image_fetches_has_a_hash():
    commands = [
        part.strip() for word, rest in instructions() if word == "RUN" for part in rest.split("&&")
    ]
    installs = [command for command in commands if " install " in command]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes -r requirements/" in command or command.endswith(
            "--no-deps /wheel/*.whl"
        )


def test_the_image_copies_what_is_there_and_nothing_else_is_sent():
    assert all((DEPLOY.parent / source).exists() for source in copied())
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert sorted(sent) == sorted(copied())


def test_what_is_copied_builds_a_package_whose_commands_run(tmp_path: Path):
    """As the Containerfile does, but that what is fetched is taken from where the tests run."""
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    for name in copied():
        original, copy = DEPLOY.parent / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(original, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run([*pip, *built], check=True)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    empty.mkdir()
    module, flag = json.loads(last_stage()["ENTRYPOINT"])
    assert (module, flag) == ("python", "-m")
    for command in (json.loads(last_stage()["CMD"]), ["orderflow.cli", "migrate"]):
        told = subprocess.run(
            [sys.executable, flag, *command, "--help"],
            cwd=empty,
            # Before the checkout, which the tests have installed.
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Usage:" in told.stdout, told.stderr
    workers = subprocess.run(
        [sys.executable, "-m", "orderflow.worker", "nope"],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert workers.stderr.endswith("these exist: notification, order, payment.\n")


#: Runs a command as process 1 of a namespace, which is what a container without an init is.
ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")


@pytest.mark.parametrize("command", [["orderflow.api"], ["orderflow.worker", "order"]])
def test_as_process_1_it_hears_sigterm(tmp_path: Path, settings, command):
    """The kernel gives process 1 no signal that it has not asked for."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a namespace of processes")
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        outside = subprocess.Popen(
            [*ALONE, sys.executable, "-m", *command],
            env=os.environ
            | process_environment(settings)
            | {"PORT": str(port), "JWT_SECRET": SECRET},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    [inside] = _child_of(outside)
    try:
        wait_until(lambda: port_is_taken(port) or "worker started" in log.read_text(), "the start")
        inside.terminate()
        assert outside.wait(30) == 0, log.read_text()
    finally:
        with suppress(psutil.NoSuchProcess):
            inside.kill()
        outside.wait(10)


def _child_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    of_it = psutil.Process(process.pid)
    wait_until(lambda: bool(of_it.children()), "process 1")
    return of_it.children()
