"""A PgBouncer before a PostgreSQL, with few sessions for many clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import wait_until

from orderflow.sandbox.servers import Server, free_port, port_is_taken

SESSIONS = 2
#: It refuses to run as root: the user that Debian's package makes for it.
_USER = "postgres" if os.geteuid() == 0 else None

_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
admin_users = postgres
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 500
logfile = {folder}/pgbouncer.log
{more}
"""


@contextmanager
def running_pgbouncer(
    server: Server, *, mode: str = "transaction", more: str = ""
) -> Iterator[str]:
    """Run a PgBouncer, and give the URL of what is before it, without a database."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.fail("These tests need PgBouncer: make pgbouncer")
    port = free_port()
    # Not pytest's own folder, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="orderflow-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "users.txt").write_text('"postgres" ""\n')
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(
                server=server.port,
                port=port,
                folder=folder,
                mode=mode,
                sessions=SESSIONS,
                more=more,
            )
        )
        process = subprocess.Popen(
            [program, "--quiet", str(settings)],
            stdin=subprocess.DEVNULL,
            user=_USER,
            start_new_session=True,
        )
        try:
            wait_until(lambda: port_is_taken(port) or process.poll() is not None, "PgBouncer")
            assert process.poll() is None, "PgBouncer did not start"
            yield f"postgresql://postgres@127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)
