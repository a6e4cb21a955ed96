"""The documentation as a site: it is built without a warning, and asks no other host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.check_site import main

ROOT = Path(__file__).parents[2]


def test_the_pages_make_a_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `make docs` does."""
    pages, site = tmp_path / "pages", tmp_path / "site"
    build = ("-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site))
    for command in (("docs/gather.py", str(pages)), build):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"PAGES": str(pages), "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert main(site) == 0, capsys.readouterr().out
    # What belongs to an item of a list is in it, and nothing is left as it was written.
    [restore] = site.glob("docs/backup.html")
    text = restore.read_text("utf-8")
    assert "```" not in text
    assert text.count("<ol>") == 1
    # A file that is linked is shown.
    assert "DATABASE_URL" in (site / "env.example.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "from another host: https://cdn"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "from another host: //cdn"),
        ('<img src="http://cdn.example/x.png">', "from another host: http://cdn"),
        ("<style>@import url(https://cdn.example/x.css);</style>", "from another host: https"),
        ('<img src="missing.png">', "not there: missing.png"),
        ('<a href="missing.html">x</a>', "a dead link: missing.html"),
        ('<a href="other.html#missing">x</a>', "a dead link: other.html#missing"),
        ('<a href="#missing">x</a>', "a dead link: #missing"),
    ],
)
def test_what_is_wrong_with_a_site_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, fault: str
) -> None:
    (tmp_path / "other.html").write_text('<h1 id="here"><a href="index.html#it">x</a></h1>')
    good = (
        '<p id="it"><a href="other.html#here">x</a> <a href="https://elsewhere.example">x</a></p>'
    )
    (tmp_path / "index.html").write_text(good)
    (tmp_path / "bad.html").write_text(body)
    assert main(tmp_path) == 1
    [told] = capsys.readouterr().out.splitlines()
    assert told.startswith(f"bad.html: {fault}")


def test_a_font_of_another_host_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "index.html").write_text("<p>x</p>")
    assert main(tmp_path) == 0
    (tmp_path / "a.css").write_text("@font-face { src: url('https://cdn.example/a.woff2') }")
    assert main(tmp_path) == 1
    assert "a.css: from another host: https://cdn.example/a.woff2" in capsys.readouterr().out
