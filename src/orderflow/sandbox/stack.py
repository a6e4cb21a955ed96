"""The processes of one `orderflow up`: started, watched, and stopped together."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

_START_TIMEOUT_S = 60.0
#: Longer than a worker drains.
_STOP_TIMEOUT_S = 25.0


class UpError(Exception):
    """The stack cannot start, or does not hold; the message says what to mend."""


@dataclass
class Stack:
    """The processes of one `orderflow up`, and the environment that they share."""

    data: Path
    exits: ExitStack
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: str, **own: str) -> None:
        """Start a process of ours, with environment of its `own`; its output goes to its log."""
        log = self.log(name)
        with log.open("ab") as output:
            process = subprocess.Popen(
                # exec: the process that we stop is the program, not a shell before it.
                ["/bin/sh", "-c", f"exec {command}"],
                env=self.environment | own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us alone, so that we choose the order of the end.
                start_new_session=True,
            )
        self.processes[name] = process

    def stop_on_exit(self, *names: str) -> None:
        """Have these processes stopped together, before all that was started earlier."""
        self.exits.callback(_stop_all, [self.processes[name] for name in names])

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        folder = self.data / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def check(self) -> None:
        """Raise UpError if a process has ended, with the last that it said."""
        for name, process in self.processes.items():
            status = process.poll()
            if status is not None:
                said = self.log(name).read_text(errors="replace").strip().splitlines()[-3:]
                raise UpError(f"{name} ended with status {status}: " + " | ".join(said))

    def wait_for(self, what: str, answers: Callable[[], bool]) -> None:
        """Return when `answers()`. Raises UpError if a process ends, or nothing comes."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not answers():
            self.check()
            if time.monotonic() > deadline:
                raise UpError(f"{what} did not answer within {_START_TIMEOUT_S:.0f} s")
            time.sleep(0.02)

    def watch(self) -> None:
        """Return never: until Ctrl-C, or an UpError when a process ends."""
        while True:
            self.check()
            time.sleep(0.5)


def _stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
