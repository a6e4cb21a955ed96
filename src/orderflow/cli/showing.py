"""How commands show things: tables for people, JSON for programs, and short forms of both."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orderflow.api.answers import as_json
from orderflow.cli.running import fail

#: Where there is no terminal nothing is cut off to fit one.
_WIDTH = 220

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")


def console() -> Console:
    """Return standard output as rich writes to it, without colours unless it is a terminal."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(width=width, highlight=False, emoji=False, markup=False)


def show_json(value: Any) -> None:
    """Print what a use case returned as JSON."""
    typer.echo(json.dumps(as_json(value), indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Return a table; columns whose name ends with a blank are numbers, and stand right.

    The first column names what a row is of, and is the last to be broken on a narrow screen.
    """
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, expand=False)
    for column in columns:
        right = column.endswith(" ")
        made.add_column(
            column.strip(),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=not made.columns,
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else text(cell) for cell in row))
    return made


def text(value: object) -> Text:
    """Return a cell: `-` for nothing, and what a stranger wrote without what moves a cursor."""
    shown = "-" if value is None or value == "" else str(value)
    return Text("".join(char if char.isprintable() or char == "\n" else "�" for char in shown))


def number(value: float | None) -> str:
    """Return a count or a rate."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts: list[str] = []
    left = int(seconds)
    for unit, size in reversed(_UNITS.items()):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts)


def ago(moment: datetime | None) -> str:
    """Return how long ago something was."""
    return "-" if moment is None else duration((datetime.now(UTC) - moment).total_seconds())


def clock(moment: datetime | None) -> str:
    """Return a time of day with its date, in UTC."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def seconds_of(given: str, option: str) -> int:
    """Read a length of time, as 90, 90s, 15m, 2h or 7d, or end the command."""
    parts = _DURATION.fullmatch(given)
    if parts is None:
        fail(f"{option}: must be a number of seconds, or as 90s, 15m, 2h or 7d")
    return int(parts[1]) * _UNITS[parts[2] or "s"]
