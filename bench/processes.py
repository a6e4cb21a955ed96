"""The programs of both sides as child processes, and the words that they and we exchange.

A program of bench/ours and bench/peers says `ready` on its standard output, is told `go` on its
standard input, and says `done`. All else that it says goes to its log. The clock is ours, so
that both sides are timed by the same one.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bench.errors import RowAborted

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("peers")

_STOP_TIMEOUT_S = 15.0
_START_TIMEOUT_S = 30.0


class Program:
    """A child process; its end is an error unless we asked for it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        self._heard = b""
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                # Away from a .env or workers of this checkout, which only our side would read.
                cwd=log.parent,
                env=_plain_environment() | {"PYTHONPATH": str(ROOT)} | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                # Ctrl-C reaches us alone, so that we choose the order of the end.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """What the process holds in memory now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """How long it has computed since its start."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def say(self, word: str) -> None:
        """Tell the program something."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    def hear(self, patience_s: float) -> str:
        """Return the next line that the program says. Raises RowAborted."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience_s
        while b"\n" not in self._heard:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left_s)[0]:
                raise RowAborted(f"{self.name} said nothing for {patience_s:.0f} s{self.tail()}")
            said = os.read(self._process.stdout.fileno(), 65_536)
            if not said:
                raise RowAborted(f"{self.name} ended{self.tail()}")
            self._heard += said
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def expect(self, word: str, patience_s: float = _START_TIMEOUT_S) -> None:
        """Return when the program says `word`. Raises RowAborted."""
        said = self.hear(patience_s)
        if said != word:
            raise RowAborted(f"{self.name} said '{said}' and not '{word}'{self.tail()}")

    def check(self) -> None:
        """Raise RowAborted if the program has ended."""
        status = self._process.poll()
        if status is not None:
            raise RowAborted(f"{self.name} ended with status {status}{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the log, to stand at the end of a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        return "".join(f"\n    {line[:300]}" for line in lines)

    def ask_to_end(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._process.terminate()

    def status(self, patience_s: float) -> int:
        """Return the exit status, once there is one. Raises RowAborted."""
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            message = f"{self.name} did not end within {patience_s:.0f} s{self.tail()}"
            raise RowAborted(message) from None

    def stop(self) -> None:
        """Ask the program to end, and make it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def wait_until(
    answers: Callable[[], bool],
    what: str,
    programs: Sequence[Program] = (),
    patience_s: float = _START_TIMEOUT_S,
) -> None:
    """Return when `answers()`. Raises RowAborted if a program ends, or nothing comes."""
    deadline = time.monotonic() + patience_s
    while not answers():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            tails = "".join(program.tail() for program in programs)
            raise RowAborted(f"{what}: not within {patience_s:.0f} s{tails}")
        time.sleep(0.01)


def python(module: str, *args: str) -> list[str]:
    """Return the command that runs a module in this Python."""
    return [sys.executable, "-m", module, *args]


def node(file: str, *args: str) -> list[str]:
    """Return the command that runs a file of bench/peers in Node. Raises RowAborted."""
    return [_node_program(), str(PEERS / file), *args]


def node_version() -> str:
    """Return the version of Node. Raises RowAborted."""
    return subprocess.check_output([_node_program(), "--version"], text=True).strip()


def install_node_packages() -> None:
    """Install what bench/peers/package.json pins, unless it is there. Raises RowAborted."""
    npm = shutil.which("npm")
    if npm is None:
        raise RowAborted("the peers need Node 20 or newer: install the packages nodejs and npm")
    wanted = PEERS / "package.json"
    installed = PEERS / "node_modules" / ".orderflow-installed"
    if installed.exists() and installed.read_text() == wanted.read_text():
        return
    print("Installing the peers' Node packages", flush=True)
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=PEERS, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RowAborted(f"npm install failed in {PEERS}:\n{done.stderr}")
    installed.write_text(wanted.read_text())


def _node_program() -> str:
    found = shutil.which("node")
    if found is None:
        raise RowAborted("the peers need Node 20 or newer: install the packages nodejs and npm")
    return found


def _plain_environment() -> dict[str, str]:
    """Return what a fresh shell has: no setting of this shell may reach one side alone."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}
