"""Tables of docs/ that are written by the program that has the figures."""

from __future__ import annotations

import re
from pathlib import Path

SCALING = Path(__file__).parents[1] / "docs" / "scaling.md"


def put(page: Path, name: str, table: str) -> None:
    """Put a table in the place of the one of that name. Raises ValueError if the page has none.

    A place is what lies between the comments `name` and `/name`.
    """
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    text = page.read_text("utf-8")
    block = f"```text\n{table}\n```\n"
    filled, count = place.subn(lambda found: found[1] + block + found[2], text)
    if count != 1:
        raise ValueError(f"{page.name} has {count} places for the table {name}")
    page.write_text(filled, "utf-8")
