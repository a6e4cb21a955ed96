"""`orderflow`, run as a person runs it, without a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[str]]


def run_command(
    *args: str, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `orderflow ARGS`, in that folder or in ours, with no more than that environment."""
    return subprocess.run(
        [sys.executable, "-m", "orderflow.cli", *args],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def shown(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a command that went well printed as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
