"""Find what a built site asks other hosts for, and links in it that lead nowhere.

Where it links to is the reader's choice; what a page loads is not.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: What a browser fetches by itself, of which attribute.
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_IN_STYLE = re.compile(r"""(?:url\(|@import\s+(?:url\()?)\s*["']?([^"')\s;]+)""")


class Page(HTMLParser):
    """What of a page matters here: its anchors, what it loads, and where it leads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self._style = False
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self._style |= tag == "style"
        self.loaded += _IN_STYLE.findall(given.get("style", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in _LOADED and given.get("rel") != "canonical":
            self.loaded += [given[name] for name in (_LOADED[tag], "srcset") if name in given]

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loaded += _IN_STYLE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._style &= tag != "style"


def main(site: Path) -> int:
    """Print each fault of a site; return 1 if there is any, or no page at all."""
    pages = sorted(site.rglob("*.html"))
    found = [fault for file in pages for fault in faults(site, file)]
    found += [fault for file in sorted(site.rglob("*.css")) for fault in foreign(site, file)]
    print("\n".join(found) or f"{len(pages)} pages, no dead link, nothing from another host")
    return 1 if found or not pages else 0


def faults(site: Path, file: Path) -> list[str]:
    """Return a line for whatever a page loads or links to that is not in the site."""
    page, name = read(file), file.relative_to(site)
    return [
        *(f"{name}: from another host: {url}" for url in page.loaded if is_foreign(url)),
        *(f"{name}: not there: {url}" for url in page.loaded if not leads(site, file, url)),
        *(f"{name}: a dead link: {url}" for url in page.links if not leads(site, file, url)),
    ]


def foreign(site: Path, file: Path) -> list[str]:
    """Return a line for whatever a style sheet loads from another host."""
    urls = _IN_STYLE.findall(file.read_text("utf-8"))
    return [f"{file.relative_to(site)}: from another host: {u}" for u in urls if is_foreign(u)]


def is_foreign(url: str) -> bool:
    """Whether a browser would ask another host for it."""
    return urlsplit(url).scheme not in ("", "data") or url.startswith("//")


def leads(site: Path, file: Path, url: str) -> bool:
    """Whether the file is there, and the anchor in it. Other hosts are not asked."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return True
    path = unquote(parts.path)
    # The page of what is not found does not know where it is shown.
    base = site if path.startswith("/") else file.parent
    target = base / path.lstrip("/") if path else file
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return False
    return target.suffix != ".html" or not parts.fragment or parts.fragment in read(target).anchors


@cache
def read(file: Path) -> Page:
    """Return a page, read once."""
    return Page(file)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
