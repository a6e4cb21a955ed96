"""The commands that the documentation shows, in the order in which a reader meets them."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
#: A command in the midst of a sentence. Dots and brackets stand for what the reader chooses.
_SPAN = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:orderflow|make|python -m) [^`]+)`")
#: What begins a line of a block that is a command, marked as one or not.
_BEGINS = re.compile(r"^(?:\$ |orderflow |python3? -m |make |pip |curl |[a-z]+ctl )", re.MULTILINE)
_ASSIGNMENT = re.compile(r"([A-Z_]+)=")


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it is written, without its prompt."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def documents() -> list[Path]:
    """Return the Markdown that tells a reader what to do now; the changelog tells what was."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", ":!CHANGELOG.md"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return [REPOSITORY / name for name in listed.stdout.splitlines()]


def shown_commands() -> list[Command]:
    """Return the commands of all blocks that are marked as `sh` or `console`."""
    return [
        Command(_name(file), line + first, text)
        for file in documents()
        for kind, line, block in _blocks(file)
        if kind in ("sh", "console")
        for first, text in _whole(block.splitlines(), prompts=kind == "console")
    ]


def named_commands() -> list[Command]:
    """Return the commands that stand in sentences and tables."""
    found = []
    for file in documents():
        # The blocks go, their lines stay, so that the numbers do.
        text = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), file.read_text("utf-8"))
        for span in _SPAN.finditer(text):
            line = text.count("\n", 0, span.start()) + 1
            found.append(Command(_name(file), line, " ".join(span[1].split())))
    return found


def unmarked_blocks() -> list[str]:
    """Return where a block holds a command and is not marked as `sh` or `console`."""
    return [
        f"{_name(file)}:{line}"
        for file in documents()
        for kind, line, block in _blocks(file)
        if not kind and _BEGINS.search(block)
    ]


def simple_commands(text: str) -> list[list[str]]:
    """Return the words of each command of a line of shell, those of `$(…)` and pipes, too."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";|&()\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if not set(word) - set(";|&()\n"):
            commands.append([])
        elif word not in ("do", "done", "$"):
            commands[-1].append(word)
    return [words for words in commands if words]


def without_settings(words: list[str]) -> tuple[list[str], list[str]]:
    """Part the variables that a command is given from the command."""
    count = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    return [word.partition("=")[0] for word in words[:count]], words[count:]


def _name(file: Path) -> str:
    return str(file.relative_to(REPOSITORY))


def _blocks(file: Path) -> Iterator[tuple[str, int, str]]:
    """Yield the kind of each block, the line that it begins after, and its text."""
    text = file.read_text("utf-8")
    for block in _FENCE.finditer(text):
        yield block[2], text.count("\n", 0, block.start()) + 1, textwrap.dedent(block[3])


def _whole(lines: list[str], *, prompts: bool) -> Iterator[tuple[int, str]]:
    """Yield each command with the number of its first line; it may have several lines."""
    text, first = "", 0
    for number, line in enumerate(lines, 1):
        if not text:
            if (prompts and not line.startswith("$ ")) or not line.partition("#")[0].strip():
                continue
            first = number
        text += line.removeprefix("$ ") if prompts and not text else line
        if _is_whole(text):
            yield first, text
            text = ""
        else:
            text += "\n"
    if text:
        yield first, text


def _is_whole(text: str) -> bool:
    """Say whether a shell would begin to run this, and not wait for more."""
    if text.endswith("\\"):
        return False
    return not subprocess.run(["bash", "-nc", text], capture_output=True, check=False).returncode
