"""What the docs tell a reader to type exists: commands, options, files, units, settings."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import yaml
from tests.commands import (
    REPOSITORY,
    Command,
    documents,
    named_commands,
    shown_commands,
    simple_commands,
    unmarked_blocks,
    without_settings,
)
from typer.testing import CliRunner

from orderflow import cli, worker
from orderflow.settings import Settings
from orderflow.worker_files import worker_files

#: What is no setting: OpenTelemetry's, Redis' and PM2's own, where pictures are drawn anew, and
#: which program the sandbox starts as Redis.
FOREIGN = re.compile(r"OTEL_\w+|REDISCLI_AUTH|NODE_APP_INSTANCE|SCREENSHOTS|REDIS_SERVER")
#: A name that stands for what the reader puts there.
PLACEHOLDER = re.compile(r"[A-Z]+|…")

#: What is read by deploy/ and by make.
OTHER_VARIABLES = {
    name
    for file in (REPOSITORY / "Makefile", *(REPOSITORY / "deploy").rglob("*"))
    if file.is_file() and file.suffix != ".md"
    for name in re.findall(r"[A-Z][A-Z0-9_]+", file.read_text("utf-8"))
}

worker_app = typer.Typer()
worker_app.command()(worker.run)


def faults(command: Command) -> Iterator[str]:
    """Yield what is named in a command, and is not there."""
    folder = REPOSITORY
    for words in simple_commands(command.text):
        variables, rest = without_settings(words)
        yield from (fault(f"setting {name}") for name in variables if not is_variable(name))
        if not rest:
            continue
        if rest[0] == "cd":
            folder /= rest[1]
        yield from CHECKS.get(Path(rest[0]).name, nothing)(rest[1:])
        for word in rest[1:]:
            here, inside, _ = word.partition("/")
            is_path = inside and re.fullmatch(r"\w+", here) and (folder / here).exists()
            if is_path and not any(folder.glob(word)):
                yield fault(word)


def fault(what: str) -> str:
    return f"there is no {what}"


def is_variable(name: str) -> bool:
    known = name.lower() in Settings.model_fields or name in OTHER_VARIABLES
    return known or FOREIGN.fullmatch(name) is not None


def nothing(_words: list[str]) -> Iterator[str]:
    yield from ()


def cli_faults(words: list[str], app: typer.Typer = cli.app) -> Iterator[str]:
    groups = {group.name for group in app.registered_groups}
    count = 2 if words[0] in groups else 1 if app is cli.app else 0
    path = [word for word in words[:count] if not PLACEHOLDER.fullmatch(word)]
    # --help is heeded before values are looked at, and after names of commands and options are.
    told = CliRunner().invoke(app, [*path, "--help", *words[count:]])
    if told.exit_code:
        yield " ".join(told.output.split())


def python_faults(words: list[str]) -> Iterator[str]:
    if words[0] != "-m":
        return
    module, options = words[1], words[2:]
    places = [REPOSITORY / root / module.replace(".", "/") for root in ("", "src")]
    known = any(place.is_dir() or place.with_suffix(".py").exists() for place in places)
    if not known and module not in sys.stdlib_module_names:
        yield fault(f"module {module}")
    elif module == "orderflow.worker":
        if not PLACEHOLDER.fullmatch(options[0]) and options[0] not in worker_files():
            yield fault(f"worker {options[0]}")
        yield from cli_faults(options, worker_app)


def make_faults(words: list[str]) -> Iterator[str]:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    for word in words:
        name, given, _ = word.partition("=")
        if name not in targets and not (given and is_variable(name)):
            yield fault(f"make {word}")


def pip_faults(words: list[str]) -> Iterator[str]:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for name in re.findall(r"orderflow\[(\w+)\]", " ".join(words)):
        if name not in extras["optional-dependencies"]:
            yield fault(f"extra {name}")


def unit_faults(words: list[str]) -> Iterator[str]:
    units = {file.name for file in (REPOSITORY / "deploy/systemd").iterdir()}
    for name in re.findall(r"orderflow[\w.-]*@?", " ".join(words)):
        if not any(unit.startswith(name.rstrip("*")) for unit in units):
            yield fault(f"unit {name}")


def compose_faults(words: list[str]) -> Iterator[str]:
    if words[0] != "compose":
        return
    # The words after a service that something is run in are another command's.
    [named] = [shlex.join(words).partition(" orderflow ")[0]]
    services = yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text("utf-8"))["services"]
    for word in shlex.split(named)[2:]:
        if not word.startswith("-") and word not in services:
            yield fault(f"service {word}")


CHECKS: dict[str, Callable[[list[str]], Iterator[str]]] = {
    "orderflow": cli_faults,
    "python": python_faults,
    "python3": python_faults,
    "make": make_faults,
    "pip": pip_faults,
    "systemctl": unit_faults,
    "journalctl": unit_faults,
    "docker": compose_faults,
}


def test_what_the_docs_tell_to_type_exists():
    commands = {each.text: each for each in (*shown_commands(), *named_commands())}
    assert len(commands) > 100
    assert [f"{each}: {why}" for each in commands.values() for why in faults(each)] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("orderflow docter", "No such command 'docter'"),
        ("LOG_FORMAT=json orderflow doctor --every 2", "No such option: --every"),
        ("DATABASE_DSN=x orderflow doctor", "there is no setting DATABASE_DSN"),
        ("python -m orderflow.worker paiment", "there is no worker paiment"),
        ("python -m orderflow.worker order --slots 3", "No such option: --slots"),
        ("python -m orderflow.server", "there is no module orderflow.server"),
        ("make tests", "there is no make tests"),
        ("make bench ROWS=add", "there is no make ROWS=add"),
        ("pip install 'orderflow[paypal]'", "there is no extra paypal"),
        ("cd deploy && cp haproxy/nginx.cfg /etc", "there is no haproxy/nginx.cfg"),
        ("systemctl restart orderflow-web", "there is no unit orderflow-web"),
        ("docker compose up -d api-7", "there is no service api-7"),
    ],
)
def test_what_does_not_exist_is_found(text: str, why: str):
    [found] = faults(Command("docs/x.md", 1, text))
    assert why in found


def test_every_block_of_commands_is_marked_as_one():
    assert unmarked_blocks() == []


def test_every_variable_that_the_docs_name_is_read():
    named = {
        name
        for file in documents()
        for name in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b", file.read_text("utf-8"))
    }
    assert len(named) > 50
    assert sorted(name for name in named if not is_variable(name)) == []


def test_what_the_page_about_the_architecture_names_is_where_it_says():
    missing = []
    for line in (REPOSITORY / "docs/architecture.md").read_text("utf-8").splitlines():
        # Files and folders; a row that names a folder goes on with the files in it.
        paths = re.findall(r"`([a-z.][\w.*/-]*(?:\.\w+|/))`", line)
        source = REPOSITORY / "src/orderflow"
        places = (REPOSITORY, source, *(source / path for path in paths if path.endswith("/")))
        missing += [path for path in paths if not any(any(one.glob(path)) for one in places)]
    assert missing == []


def test_the_readme_shows_the_schema_as_it_is():
    steps = (REPOSITORY / "src/orderflow/db/migrations/versions").glob("[0-9]*.py")
    shown = re.findall(
        r"^Schema +(\d+)", (REPOSITORY / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert shown == [max(step.name[:4] for step in steps)]


def test_every_command_is_in_the_page_about_them():
    page = (REPOSITORY / "docs/cli.md").read_text("utf-8")
    named = set(re.findall(r"[a-z][a-z-]+", " ".join(re.findall(r"`([^`]+)`", page))))
    commands = {each.name or each.callback.__name__ for each in cli.app.registered_commands}
    assert {name.replace("_", "-") for name in commands} - named == set()
