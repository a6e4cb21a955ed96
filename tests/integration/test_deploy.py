"""What runs orderflow elsewhere: units that systemd takes, and an image that is not root."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = ("orderflow-api", "orderflow-exporter", "orderflow-worker@payment")
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


@pytest.mark.parametrize("unit", ["orderflow-api", "orderflow-exporter", "orderflow-worker@"])
def test_a_service_can_do_little_to_its_machine(units, unit):
    threshold = f"--threshold={MOST_EXPOSURE * 10:.0f}"
    file = str(units / f"{unit}.service")
    judged = analyze(units, "security", "--offline=true", "--no-pager", threshold, file)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_what_the_units_start_exists():
    started = {
        module
        for unit in (DEPLOY / "systemd").glob("*.service")
        for module in re.findall(r"^ExecStart=\S+ -m (\S+)", unit.read_text(), re.MULTILINE)
    }
    assert started == {"orderflow.api", "orderflow.exporter", "orderflow.worker"}
    assert all(map(importlib.util.find_spec, started))


def test_the_image_is_not_root_and_copies_what_is_there():
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _target = line.split()[1:]
            assert all((DEPLOY.parent / source).exists() for source in sources), line
