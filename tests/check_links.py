"""Find dead links in the Markdown of this repository: files, headings inside of files, and tests.

Links to other hosts are not followed: the check must pass without a network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def main() -> int:
    """Print each dead link; return how many there are, as an exit status of 0 or 1."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        check=True,
        capture_output=True,
        text=True,
    )
    files = [Path(name) for name in listed.stdout.splitlines()]
    dead = [fault for file in files for fault in dead_links(file)]
    print("\n".join(dead) or f"{len(files)} files, no dead link")
    return 1 if dead or not files else 0


def dead_links(file: Path) -> list[str]:
    """Return a line for each link of `file` that leads nowhere."""
    text = _FENCE.sub("", file.read_text("utf-8"))
    faults = []
    for match in _LINK.finditer(text):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = file.parent / path if path else file
        if not found.exists():
            faults.append(f"{file}: no file {target}")
        elif anchor and anchor not in anchors(found):
            faults.append(f"{file}: no heading {target}")
    for path, name in _TEST.findall(text):
        test = Path(path)
        if not test.exists() or f"def {name}(" not in test.read_text("utf-8"):
            faults.append(f"{file}: no test {path}::{name}")
    return faults


def anchors(file: Path) -> set[str]:
    """Return the anchors of the headings of `file`, as forges make them."""
    headings = _HEADING.findall(_FENCE.sub("", file.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


if __name__ == "__main__":
    sys.exit(main())
