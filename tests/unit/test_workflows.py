"""The workflows of the forge: their schema, what they may do, and that what they run is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_the_forge_takes_them() -> None:
    assert [file.stem for file in FILES] == ["ci", "release"]
    schema = ("--builtin-schema", "vendor.github-workflows")
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, *FILES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_python_that_the_package_names_is_tested() -> None:
    tested = workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
    assert tested == named
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("name", ["ci", "release"])
def test_what_they_run_is_a_target_of_the_makefile(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    made = {
        target
        for step in steps(name)
        for words in re.findall(r"^make (.*)$", step.get("run", ""), re.MULTILINE)
        for target in words.split()
    }
    assert made
    assert made <= targets


@pytest.mark.parametrize("name", ["ci", "release"])
def test_they_may_read_and_no_more_unless_a_job_says_why(name: str) -> None:
    said = workflow(name)
    assert said["permissions"] == {"contents": "read"}
    more = {job: its["permissions"] for job, its in said["jobs"].items() if "permissions" in its}
    may = {"publish": {"id-token": "write"}, "announce": {"contents": "write"}}
    assert more == (may if name == "release" else {})
    checkouts = [step for step in steps(name) if "actions/checkout@" in step.get("uses", "")]
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def test_what_may_publish_runs_nothing_that_can_be_changed_under_its_name() -> None:
    used = [step["uses"] for step in steps("release") if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)] == []


def test_the_others_are_the_forges_own_at_one_major_version() -> None:
    used = [step["uses"] for step in steps("ci") if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"actions/[\w-]+@v\d+", one)] == []
