"""Lay the repository's pages out for `make docs`, each at the place that it has in there.

So one link is right on a forge and in the site. A file that is linked and is no page, as the
settings or a source, gets a page that shows it; a folder is named and not linked.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "docs/runbooks/*.md", "deploy/*.md", "examples/*.md", "bench/*.md")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_HIGHLIGHTED = {".py": "python", ".mjs": "js", ".js": "js", ".json": "json", ".yml": "yaml"}


def main(folder: Path) -> None:
    """Fill `folder` anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in (path for glob in PAGES for path in ROOT.glob(glob)):
        name = page.relative_to(ROOT).as_posix()
        _write(folder / name, _gathered(name, page.read_text("utf-8"), folder))


def _gathered(name: str, markdown: str, folder: Path) -> str:
    """Return the page as it is in the site, with the images and files of its links beside it."""

    def linked(match: re.Match[str]) -> str:
        image, text, href, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), href))
        file = ROOT / target
        if ":" in href or file.suffix == ".md":
            return match[0]
        if image:
            _copy(file, folder / target)
            return match[0]
        if file.is_dir():
            return text
        shown = posixpath.join(posixpath.dirname(target), file.name.lstrip(".") + ".md")
        _write(folder / shown, _shown(file, target))
        return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(name))}{anchor})"

    return "\n".join(_indented(_LINK.sub(linked, markdown).split("\n")))


def _indented(lines: list[str]) -> Iterator[str]:
    """Give the lines with what belongs to an item of a list four spaces in, as MkDocs wants it.

    A forge takes as many as the item's own mark has.
    """
    mark, fenced = 0, False
    for line in lines:
        if not fenced and (item := _ITEM.match(line)):
            mark = len(item[0])
        elif not fenced and line[:1].strip():
            mark = 0
        inside = mark and line.startswith(" " * mark)
        if line.lstrip().startswith("```"):
            fenced = not fenced
        yield " " * (4 - mark) + line if inside else line


def _shown(file: Path, name: str) -> str:
    """Return the page that shows a file. Settings are searched for, sources are not."""
    language = _HIGHLIGHTED.get(file.suffix, "sh" if file.name.startswith(".env") else "text")
    head = "" if language == "sh" else "---\nsearch: {exclude: true}\n---\n"
    return f"{head}# {name}\n\n````{language}\n{file.read_text('utf-8')}\n````\n"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def _copy(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
