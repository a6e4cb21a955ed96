"""What is installed is pinned, hashed and explained, and is what pyproject.toml asks for."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
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


def asked() -> list[str]:
    """Return the names of all that pyproject.toml asks for, for whatever."""
    lists = (PROJECT["project"]["dependencies"], *EXTRAS.values(), *GROUPS.values())
    names = {canonicalize_name(Requirement(one).name) for each in lists for one in each}
    return sorted(names - {PROJECT["project"]["name"]})


def test_the_page_explains_each_dependency_and_no_other() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    explained = re.findall(r"^\| `([^`]+)` \| [^|]*\w", page, re.MULTILINE)
    assert sorted(set(explained)) == asked()


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports, by the first part of their names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_what_the_code_imports_is_asked_for() -> None:
    modules = {
        module
        for folder in ("src", "workers")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported(file)
    }
    brought_by = packages_distributions()
    unasked = {
        module
        for module in modules - sys.stdlib_module_names - {"orderflow", "workers"}
        # What only another Python needs is not there to tell, and its package is named as it is.
        if not {canonicalize_name(name) for name in brought_by.get(module, [module])} & set(asked())
    }
    # redis[hiredis], and a part of pydantic at the version that it wants.
    assert unasked == {"hiredis", "pydantic_core"}
