"""The version is in one place; what names it elsewhere, as an example, is the same."""

from __future__ import annotations

import re
from pathlib import Path

from orderflow import __version__

ROOT = Path(__file__).parents[2]
#: As an image, in a User-Agent, and as kustomize has it.
_NAMED = re.compile(r"\borderflow[:/](\d+[\w.]*)|newTag: \"?([\w.]+)")


def named() -> list[tuple[str, str]]:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    files += [file for file in (ROOT / "deploy").rglob("*") if file.is_file()]
    return [
        (file.name, image or tag)
        for file in files
        for image, tag in _NAMED.findall(file.read_text("utf-8"))
    ]


def test_examples_name_the_version_that_this_is() -> None:
    found = named()
    assert {"README.md", "webhooks.md", "kustomization.yaml"} <= {file for file, _ in found}
    assert [one for one in found if one[1] != __version__] == []


def test_the_upgrade_notes_have_a_section_for_each_version() -> None:
    log = (ROOT / "CHANGELOG.md").read_text("utf-8")
    notes = (ROOT / "docs" / "upgrading.md").read_text("utf-8").partition("## What each version")[2]
    versions = re.findall(r"^## (\S+)", log, re.MULTILINE)
    assert versions
    assert re.findall(r"^### (\S+)", notes, re.MULTILINE) == versions
