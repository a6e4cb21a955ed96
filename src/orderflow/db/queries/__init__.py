"""The SQL of orderflow: every statement stands under its name in a .sql file of this folder.

A statement begins after a line `-- name: the_name`, lasts until the next one, and takes its
arguments in the order that the comment below its name gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries() -> Mapping[str, str]:
    """Read all statements by name. Raises ValueError if a name is used twice."""
    queries: dict[str, str] = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        _, *parts = _NAME.split(file.read_text("utf-8"))
        for name, statement in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"query '{name}' is defined twice, again in {file.name}")
            queries[name] = statement.strip()
    return queries
