"""What is installed is pinned and hashed, and is what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
#: Of each file, what must be in it.
FILES = {
    "app": PROJECT["project"]["dependencies"] + EXTRAS["otel"] + EXTRAS["stripe"],
    "sandbox": PROJECT["project"]["dependencies"] + EXTRAS["sandbox"],
    "dev": PROJECT["project"]["dependencies"] + [one for extra in EXTRAS.values() for one in extra],
    "build": GROUPS["build"] + PROJECT["build-system"]["requires"],
    "tools": GROUPS["tools"],
}


def blocks(name: str) -> Iterator[list[str]]:
    """Give each pinned package: its line, and those of its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for block in re.split(r"\n(?=\S)", "\n".join(lines)):
        yield block.split(" \\\n")


def pins(name: str) -> dict[str, str]:
    found = [Requirement(first) for first, *_ in blocks(name)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_there_is_a_file_for_each() -> None:
    assert {file.stem for file in (ROOT / "requirements").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_everything_is_pinned_and_hashed_and_says_not_from_where(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()
    for first, *hashes in blocks(name):
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+( ; .+)?", first), first
        assert hashes, first
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", one) for one in hashes), first


@pytest.mark.parametrize("name", FILES)
def test_what_is_asked_for_is_pinned_as_it_is_asked_for(name: str) -> None:
    pinned = pins(name)
    for asked in map(Requirement, FILES[name]):
        if asked.name != PROJECT["project"]["name"]:
            version = pinned.get(canonicalize_name(asked.name))
            assert version is not None, f"{asked}: make lock"
            assert asked.specifier.contains(version), f"{asked} is not {version}: make lock"


@pytest.mark.parametrize("name", ["app", "sandbox", "build"])
def test_one_package_has_one_version(name: str) -> None:
    everything = pins("dev")
    apart = {package: version for package, version in pins(name).items() if package in everything}
    assert apart == {package: everything[package] for package in apart}
