"""The system's PgBouncer, as a child process on loopback, before a PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from orderflow.sandbox.servers import Server, ServerError, port_is_taken, wait_until_it_answers

_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 1000
{more}
"""


def start_pgbouncer(
    folder: Path, port: int, postgres: Server, sessions: int, *, mode: str, more: str = ""
) -> Server:
    """Start it with so many `sessions` of each database; `more` are further settings.

    Its URL is without a database. As root it runs as nobody, for which `folder` has to be open.
    Raises ServerError.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise ServerError("PgBouncer is not there: it is a package of the system")
    (folder / "users.txt").write_text('"postgres" ""\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        _SETTINGS.format(
            server=postgres.port, port=port, folder=folder, mode=mode, sessions=sessions, more=more
        )
    )
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None,
            start_new_session=True,
        )
    url = f"postgresql://postgres@127.0.0.1:{port}"
    server = Server("pgbouncer", url, port, process, signal.SIGTERM)
    wait_until_it_answers(server, lambda: port_is_taken(port), log)
    return server
