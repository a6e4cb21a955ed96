"""A PgBouncer before a PostgreSQL, with few sessions for many clients."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orderflow.sandbox.pgbouncer import start_pgbouncer
from orderflow.sandbox.servers import Server, free_port

SESSIONS = 2


@contextmanager
def running_pgbouncer(
    server: Server, *, mode: str = "transaction", more: str = ""
) -> Iterator[str]:
    """Run a PgBouncer, and give the URL of what is before it, without a database."""
    # Not pytest's own folder, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="orderflow-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        pooler = start_pgbouncer(folder, free_port(), server, SESSIONS, mode=mode, more=more)
        try:
            yield pooler.url
        finally:
            pooler.stop()
