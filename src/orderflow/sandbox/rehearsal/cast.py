"""Who takes part in a rehearsal: two servers, the workers and the producer, as processes.

All are started here, watched, and ended by their process id. Their ids are kept in a file, so that
a start after a crash of the rehearsal itself ends those that were left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orderflow.bull.worker import STALLED
from orderflow.sandbox.rehearsal.interrupts import Interrupts
from orderflow.sandbox.servers import Server, free_port, own_redis, start_postgres, start_redis
from orderflow.settings import Settings

PAYMENT, NOTIFICATION, ORDER, PRODUCER = "payment", "notification", "order", "producer"
POSTGRES, REDIS = "postgres", "redis"

#: What a shop would set on a machine of its own; every commit is on disk before it is answered.
_POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "max_connections": "100",
}
#: What is in Redis is little and always new; by default it would be written anew every 64 MB.
_REDIS_SETTINGS = {"auto-aof-rewrite-min-size": "1gb"}
#: Jobs at once in one process of each worker.
_CONCURRENCY = {PAYMENT: 100, NOTIFICATION: 100, ORDER: 5}
#: Longer than a worker drains.
_STOP_TIMEOUT_S = 30.0
#: Process ids come again; a process that began at another time is another one.
_SAME_START_S = 1.0


class RehearsalError(Exception):
    """The rehearsal cannot begin or go on; the message says why, and what to do."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second rehearsal out of `folder`. Raises RehearsalError if one is in there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RehearsalError(f"another rehearsal runs in {folder}") from None
        yield


def environment_of(orders: int, servers: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all processes, with the URLs of the servers.

    Settings of the shell are kept out: a rehearsal touches nothing but its own servers.
    """
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _SETTINGS}
    return {
        **kept,
        **servers,
        # A small rehearsal leaves orders to the reconciler too, as the large one does.
        "QUEUE_DEPTH_LIMIT": str(min(50_000, max(500, orders // 10))),
        "RECONCILE_INTERVAL_MS": "1000",
        "RECONCILE_GRACE_MS": "5000",
        # The machine is meant to be full: a slow answer is not a dead server. Locks are as they are
        # shipped, since a job that is taken for stalled here would be so in a shop as well.
        "DATABASE_TIMEOUT_MS": "30000",
        "REDIS_TIMEOUT_MS": "5000",
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "console",
    }


_SETTINGS = frozenset(Settings.model_fields)


@dataclass
class Cast:
    """The processes of one rehearsal. Whatever is started is stopped by `exits`."""

    folder: Path
    exits: ExitStack
    interrupts: Interrupts
    servers: dict[str, Server] = field(default_factory=dict)
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_servers(self) -> dict[str, str]:
        """Start PostgreSQL and Redis on their data; return their URLs by setting.

        Raises ServerError.
        """
        self.exits.callback(_pids(self.folder).unlink, missing_ok=True)
        # PostgreSQL first: it refuses data that another server uses.
        with self.interrupts.held():
            postgres = start_postgres(self.folder / "postgres", free_port(), _POSTGRES_SETTINGS)
            self._keep_server(POSTGRES, postgres)
        with self.interrupts.held():
            redis = start_redis(
                self.folder / "redis",
                free_port(),
                executable=own_redis(),
                settings=_REDIS_SETTINGS,
            )
            self._keep_server(REDIS, redis)
        return {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}

    def start_workers(self, environment: Mapping[str, str], processes: int) -> None:
        """Start the recording workers, those of payments and notifications in `processes` each."""
        for name, concurrency in _CONCURRENCY.items():
            count = 1 if name == ORDER else processes
            options = ("--folder", str(self.folder / "records"), "--concurrency", str(concurrency))
            module = "orderflow.sandbox.recording"
            self._start(name, environment, module, name, *options, "--processes", str(count))

    def start_producer(self, environment: Mapping[str, str], orders: int, mark: Path) -> None:
        """Start the customers."""
        module = "orderflow.sandbox.rehearsal.producer"
        self._start(PRODUCER, environment, module, "--orders", str(orders), "--mark", str(mark))

    def processes(self) -> dict[str, int]:
        """Return the process ids by name."""
        servers = {name: server.process.pid for name, server in self.servers.items()}
        return servers | {name: program.pid for name, program in self.programs.items()}

    def death(self) -> str | None:
        """Say which process has ended that must not have, and what it said last."""
        servers = {name: server.process for name, server in self.servers.items()}
        for name, process in (servers | self.programs).items():
            status = process.poll()
            # The producer's work has an end.
            if status is not None and (name, status) != (PRODUCER, 0):
                return f"{name} ended with status {status}: {self._last_words(name)}"
        return None

    @property
    def has_placed_all(self) -> bool:
        """Whether the producer has come to its own end."""
        return self.programs[PRODUCER].poll() == 0

    def stop_programs(self) -> dict[str, int]:
        """End the producer and the workers, the producer first; return how each ended."""
        for name in (PRODUCER, *_CONCURRENCY):
            if name in self.programs:
                self.programs[name].terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for program in self.programs.values():
            try:
                program.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        return {name: program.returncode for name, program in self.programs.items()}

    def _start(self, name: str, environment: Mapping[str, str], module: str, *args: str) -> None:
        log = self._log(name)
        with self.interrupts.held():
            with log.open("ab") as output:
                self.programs[name] = subprocess.Popen(
                    [sys.executable, "-m", module, *args],
                    # No `.env` and no `workers` of the user's folder.
                    cwd=log.parent,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches us alone, so that we choose the order of the end.
                    start_new_session=True,
                )
            if len(self.programs) == 1:
                self.exits.callback(self.stop_programs)
            self._remember(name, self.programs[name].pid, signal.SIGTERM)

    def _keep_server(self, name: str, server: Server) -> None:
        self.servers[name] = server
        self.exits.callback(server.stop)
        self._remember(name, server.process.pid, server.stop_signal)

    def _remember(self, name: str, pid: int, stop_signal: signal.Signals) -> None:
        entry = {
            "name": name,
            "pid": pid,
            "started": psutil.Process(pid).create_time(),
            "signal": stop_signal,
        }
        with _pids(self.folder).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def stalled(self) -> int:
        """Return how many jobs were taken from a worker that seemed dead, in all sittings."""
        line = STALLED.encode()
        return sum(self._log(name).read_bytes().count(line) for name in _CONCURRENCY)

    def _log(self, name: str) -> Path:
        if name in self.servers:
            return self.folder / name / f"{name}.log"
        folder = self.folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        with self._log(name).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4_096))
            return " | ".join(log.read().decode(errors="replace").strip().splitlines()[-3:])


def _pids(folder: Path) -> Path:
    return folder / "pids.jsonl"


def stop_leftovers(folder: Path) -> int:
    """End the processes of a rehearsal in `folder` that died; return how many there were."""
    file = _pids(folder)
    lines = file.read_text().splitlines() if file.exists() else []
    entries = [json.loads(line) for line in lines]
    programs = [entry for entry in entries if entry["name"] not in {POSTGRES, REDIS}]
    servers = [entry for entry in entries if entry not in programs]
    count = _end(programs) + _end(servers)
    file.unlink(missing_ok=True)
    return count


def _end(entries: Sequence[dict[str, Any]]) -> int:
    """End those of the processes that still run; return how many they were."""
    running = []
    for entry in entries:
        process = _still_running(entry["pid"], entry["started"])
        if process is not None:
            process.send_signal(entry["signal"])
            running.append(process)
    _, stubborn = psutil.wait_procs(running, timeout=_STOP_TIMEOUT_S)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn)
    return len(running)


def _still_running(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
