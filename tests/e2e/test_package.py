"""What is shipped: the sdist, the wheel that it builds, and that this needs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_up import leftovers, ports
from tests.sbom import missing, write

from orderflow import __version__

UV = (sys.executable, "-m", "uv", "--quiet")


@dataclass(frozen=True)
class Built:
    """What `make dist` makes, by the same command: the wheel is built from the sdist."""

    sdist: Path
    wheel: Path


def run(*command: str | Path, folder: Path | None = None, **more: Any) -> str:
    """Run a command and return what it printed; fail the test where it does."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, folder: Path, *what: str) -> list[Path]:
    """Build a package, with what is installed here to build with; return what was made."""
    run(
        *UV,
        "build",
        "--python",
        sys.executable,
        "--no-build-isolation",
        *what,
        "-o",
        folder,
        source,
    )
    return sorted(folder.glob("orderflow-*"))


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    wheel, sdist = build(clone, tmp_path_factory.mktemp("dist"))
    return Built(sdist, wheel)


def inside(clone: Path) -> set[str]:
    """Return what of a clone belongs into the package, by its name there."""
    names = {file.relative_to(clone).as_posix() for file in clone.rglob("*") if file.is_file()}
    return {
        re.sub(
            r"^(src/orderflow|deploy(?=/prometheus)|(?=workers/|Procfile))/?", "orderflow/", name
        )
        for name in names
        if re.match(r"src/|workers/|Procfile|deploy/prometheus/(prometheus.yml|rules/)", name)
    }


def test_the_wheel_of_the_sdist_is_that_of_the_clone_and_has_the_whole_package(
    clone: Path, built: Built, tmp_path: Path
) -> None:
    assert built.sdist.name == f"orderflow-{__version__}.tar.gz"
    assert built.wheel.name == f"orderflow-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(built.wheel).namelist()
    [of_the_clone] = build(clone, tmp_path, "--wheel")
    assert zipfile.ZipFile(of_the_clone).namelist() == names
    assert of_the_clone.read_bytes() == built.wheel.read_bytes()
    # Statements, migrations, templates, pages, workers: whatever there is of them, and no more.
    assert {name for name in names if ".dist-info/" not in name} == inside(clone)


def test_in_an_empty_environment_a_first_order_is_paid_and_mailed(
    clone: Path, built: Built, tmp_path: Path
) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    python = environment / "bin" / "python"
    run(*UV, "venv", "--python", sys.executable, environment)
    install = (*UV, "pip", "install", "--python", python)
    requirements = clone / "requirements"
    run(*install, "--require-hashes", "-r", requirements / "app.txt")
    run(*install, "--no-deps", built.wheel)

    run(*UV, "pip", "check", "--python", python)
    # `make sbom` holds it against the schema of CycloneDX too, which takes seconds.
    assert missing(write(python, tmp_path / "sbom.json", "--no-validate")) == []

    orderflow = environment / "bin" / "orderflow"
    alone = {"folder": empty, "env": {"PATH": os.environ["PATH"]} | ports()}
    assert run(orderflow, "--version", **alone) == f"{__version__}\n"
    assert "Usage: orderflow doctor" in run(orderflow, "doctor", "--help", **alone)
    without = subprocess.run([orderflow, "up"], cwd=empty, stderr=subprocess.PIPE, check=False)
    assert without.returncode == 2
    assert without.stderr.endswith(b"is missing: pip install 'orderflow[sandbox]'\n")

    run(*install, "--require-hashes", "-r", requirements / "sandbox.txt")
    said = run(orderflow, "up", "--once", **alone)
    steps = re.findall(r"^ +\d+ ms  (\w+)", said, re.MULTILINE)
    assert steps == ["202", "charged", "confirmed", "mailed"]
    assert leftovers(empty) == []
