"""Migrations leave what the release before them uses as it is: it goes on while they run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from alembic.script import ScriptDirectory

from orderflow.db import migrate

#: What code that knows nothing of it could stumble over.
_BREAKS = re.compile(
    r"""\bDROP\s+(?!CONSTRAINT|INDEX\s+CONCURRENTLY\s+IF\s+EXISTS)|\bRENAME\b
    |\bTRUNCATE\b(?!\s+ON\b)|\bSET\s+NOT\s+NULL\b
    |\bALTER\s+(COLUMN\s+)?\S+\s+(SET\s+DATA\s+)?TYPE\b
    |\bADD\s+(COLUMN\s+)?(?!CONSTRAINT)[^,]*\bNOT\s+NULL\b(?![^,]*\bDEFAULT\b)""",
    re.IGNORECASE | re.VERBOSE,
)
#: What a migration says that takes away what no code uses any more.
_CONTRACT = re.compile(r"unused since \d+\.\d+")


class Recorder:
    """In the place of Alembic's `op`: keeps the statements of a step. Ours are all SQL."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def execute(self, statement: str) -> None:
        self.statements.append(re.sub(r"--.*", "", statement))

    def get_context(self) -> Recorder:
        return self

    def autocommit_block(self) -> nullcontext[None]:
        return nullcontext()


def steps() -> Iterator[ModuleType]:
    folder = Path(migrate.__file__).parent / "migrations"
    for script in ScriptDirectory(str(folder)).walk_revisions():
        if script.down_revision is not None:
            yield script.module


def breaks_older_code(statements: list[str], docstring: str) -> list[str]:
    """Return the statements that older code could stumble over, unless they are excused."""
    if _CONTRACT.search(docstring):
        return []
    return [statement for statement in statements if _BREAKS.search(statement)]


@pytest.mark.parametrize("step", list(steps()), ids=lambda step: step.revision)
def test_the_release_before_goes_on_with_the_new_schema(step, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(step, "op", recorder)
    step.upgrade()
    assert recorder.statements
    assert breaks_older_code(recorder.statements, step.__doc__ or "") == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders DROP COLUMN phone",
        "DROP TABLE orders",
        "DROP INDEX orders_of_user",
        "TRUNCATE orders",
        "ALTER TABLE orders RENAME COLUMN phone TO mobile",
        "ALTER TABLE orders ALTER COLUMN total TYPE bigint",
        "ALTER TABLE orders ALTER COLUMN phone SET NOT NULL",
        "ALTER TABLE orders ADD COLUMN note text NOT NULL",
    ],
)
def test_what_would_break_it_is_refused_unless_no_code_uses_it(statement):
    assert breaks_older_code([statement], "Tidy up.") == [statement]
    assert breaks_older_code([statement], "Tidy up: unused since 1.4.") == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders ADD COLUMN note text",
        "ALTER TABLE orders ADD COLUMN seen boolean NOT NULL DEFAULT false",
        "CREATE TABLE notes (id uuid PRIMARY KEY, text text NOT NULL)",
        "CREATE INDEX notes_by_text ON notes (text)",
        "DROP INDEX CONCURRENTLY IF EXISTS notes_by_text",
        "CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON notes EXECUTE FUNCTION refuse()",
    ],
)
def test_what_adds_is_taken(statement):
    assert breaks_older_code([statement], "Add.") == []
