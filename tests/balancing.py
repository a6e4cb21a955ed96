"""The load balancers of deploy/, run as they are, but for the addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import wait_until

from orderflow.sandbox.servers import free_port, port_is_taken

DEPLOY = Path(__file__).parents[1] / "deploy"
BALANCERS = ("haproxy", "nginx")


@dataclass(frozen=True)
class Balancer:
    """One that runs: where customers and where operators reach it."""

    kind: str
    url: str
    operators_url: str
    log: Path


def executable(kind: str) -> str:
    """Return the balancer's program, which a user's PATH need not lead to."""
    found = shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.fail(f"These tests need {kind}: make balancers")
    return found


@contextmanager
def running_balancer(kind: str, folder: Path, apis: Sequence[int]) -> Iterator[Balancer]:
    """Run a balancer before two APIs, by their ports."""
    public, operators = free_port(), free_port()
    write = {"haproxy": haproxy, "nginx": nginx}[kind]
    command = write(folder, apis, public, operators)
    log = folder / f"{kind}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for port in (public, operators):
            wait_until(
                lambda port=port: port_is_taken(port) or process.poll() is not None, f"{kind}"
            )
        assert process.poll() is None, log.read_text()
        yield Balancer(kind, f"http://127.0.0.1:{public}", f"http://127.0.0.1:{operators}", log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


def haproxy(folder: Path, apis: Sequence[int], public: int, operators: int) -> list[str]:
    """Write what HAProxy reads, and return the command that runs it."""
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    if os.geteuid() != 0:
        # Only root can become another user.
        text = text.replace("    user haproxy\n    group haproxy\n", "")
    config = folder / "haproxy.cfg"
    config.write_text(text, "utf-8")
    addresses = {
        "PUBLIC": f"127.0.0.1:{public}",
        "OPERATORS": f"127.0.0.1:{operators}",
        **{f"API_{n}": f"127.0.0.1:{port}" for n, port in enumerate(apis, start=1)},
    }
    settings = [f"{name}={address}" for name, address in addresses.items()]
    return ["/usr/bin/env", *settings, executable("haproxy"), "-db", "-f", str(config)]


def nginx(folder: Path, apis: Sequence[int], public: int, operators: int) -> list[str]:
    """Write what nginx reads, and return the command that runs it."""
    text = (DEPLOY / "nginx" / "orderflow.conf").read_text("utf-8")
    changes = {
        "127.0.0.1:8001": f"127.0.0.1:{apis[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{apis[1]}",
        "listen 8080": f"listen 127.0.0.1:{public}",
        "listen 127.0.0.1:8081": f"listen 127.0.0.1:{operators}",
    }
    for shipped, here in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    (folder / "orderflow.conf").write_text(text, "utf-8")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"    {name}_temp_path {folder / 'nginx'};\n" for name in kinds)
    main = folder / "nginx.conf"
    # Its processes are to write where pytest lets only the user of the tests.
    user = "user root;\n" if os.geteuid() == 0 else ""
    # What Debian's own nginx.conf is, as far as it matters: conf.d is read inside of http.
    main.write_text(
        f"{user}daemon off;\npid {folder / 'nginx.pid'};\nerror_log stderr;\nevents {{}}\n"
        f"http {{\n    access_log off;\n{folders}    include {folder / 'orderflow.conf'};\n}}\n",
        "utf-8",
    )
    return [executable("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(main)]
