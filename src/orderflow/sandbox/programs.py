"""The programs of a Procfile, and how many processes each has: `--scale payment=5,order=1`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

#: A line of a Procfile: a program's name, and its command.
_PROGRAM = re.compile(r"^([\w-]+):[ \t]*(.+)$", re.MULTILINE)
#: As many as WEB_CONCURRENCY and --processes take.
_MOST = 256


class ScaleError(Exception):
    """The text of --scale is wrong; the message says where, and what would be right."""


def read_programs(procfile: Path) -> dict[str, str]:
    """Return the commands of a Procfile by the names of their programs."""
    return dict(_PROGRAM.findall(procfile.read_text("utf-8")))


def scale_programs(programs: Mapping[str, str], scale: str) -> dict[str, str]:
    """Return the commands of `programs`, by name, with as many processes as `scale` says.

    Workers and the API may be many; what is not named stays as it is. Raises ScaleError.
    """
    scaled = dict(programs)
    for name, count in _parse(scale).items():
        command = programs.get(name, "")
        if "orderflow.worker " in command:
            scaled[name] = f"{command} --processes {count}"
        elif "orderflow.api" in command:
            scaled[name] = f"env WEB_CONCURRENCY={count} {command}"
        else:
            known = [
                one for one in programs if re.search(r"orderflow\.(worker |api)", programs[one])
            ]
            raise ScaleError(f"--scale {name}={count}: these can be many: {', '.join(known)}")
    return scaled


def _parse(scale: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in filter(None, scale.split(",")):
        found = re.fullmatch(r"([\w-]+)=([1-9][0-9]{0,2})", part.strip())
        if found is None or int(found[2]) > _MOST:
            raise ScaleError(
                f"--scale {part}: must be NAME=PROCESSES, 1 to {_MOST} of them, as payment=5"
            )
        if found[1] in counts:
            raise ScaleError(f"--scale {part}: {found[1]} is named twice")
        counts[found[1]] = int(found[2])
    return counts
