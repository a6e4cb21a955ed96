"""The servers of the shop, started on the folders that are the homes of their data."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil

from orderflow.sandbox.servers import Server, own_redis, start_postgres, start_redis, start_standby


def processes_of(server: Server) -> list[psutil.Process]:
    """Return the processes of a server: PostgreSQL has many."""
    try:
        main = psutil.Process(server.process.pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


_DURABLE = {"fsync": "on", "synchronous_commit": "on", "max_connections": "200"}


def start_postgres_in(home: Path, port: int) -> Server:
    """Start PostgreSQL with every commit on disk. Raises ServerError."""
    return start_postgres(home, port, _DURABLE)


def start_standby_in(home: Path, port: int, primary: Server) -> Server:
    """Start a standby of `primary` on a copy of its data. Raises ServerError."""
    return start_standby(home, port, primary, _DURABLE)


def start_redis_in(home: Path, port: int) -> Server:
    """Start the machine's Redis, or the wheel's, with its log. Raises ServerError."""
    return start_redis(home, port, executable=own_redis())


def copy_home(home: Path, to: Path) -> None:
    """Make `to` the same as `home`, owners and all."""
    if to.exists():
        shutil.rmtree(to)
    subprocess.run(["cp", "--archive", str(home), str(to)], check=True)
