"""`python -m orderflow.api` as a process: its settings, its port, its logs and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

SECRET = "a secret for tests that is long enough"


def environment(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "JWT_SECRET": SECRET} | variables


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it in a folder without a .env, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "orderflow.api"],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run it until it answers; give the process and its address."""
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orderflow.api"],
            cwd=folder,
            env=environment(PORT=str(port), **variables),
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(process, url)
        yield process, url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            httpx.get(f"{url}/livez", trust_env=False).raise_for_status()
        except httpx.TransportError:
            continue
        return
    pytest.fail("it did not answer")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"PORT": "70000"}, "PORT"),
        ({"JWT_SECRET": "hunter2"}, "JWT_SECRET"),
        ({"JWT_SECRET": ""}, "JWT_SECRET or JWT_JWKS"),
        ({"JWT_SECRET": "", "JWT_JWKS": "/nowhere.json"}, "JWT_JWKS"),
    ],
)
def test_a_wrong_setting_is_told_plainly(
    tmp_path: Path, variables: dict[str, str], named: str
) -> None:
    ended = run(tmp_path, **variables)

    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_told_plainly(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, PORT=str(port), WEB_CONCURRENCY=workers)

    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert str(port) in ended.stderr
    assert "ddress already in use" in ended.stderr


def test_an_unknown_host_is_told_plainly(tmp_path: Path) -> None:
    ended = run(tmp_path, HOST="192.0.2.1", PORT=str(free_port()))

    assert ended.returncode == 1
    assert "192.0.2.1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_logs_and_ends(tmp_path: Path, settings: Settings, workers: str) -> None:
    servers = {"DATABASE_URL": settings.database_dsn, "REDIS_URL": settings.redis_dsn}
    token = make_token(SECRET, "user-1")
    with running(tmp_path, WEB_CONCURRENCY=workers, **servers) as (process, url):
        with httpx.Client(base_url=url, trust_env=False) as client:
            ready = client.get("/readyz")
            orders = client.get("/orders", headers={"Authorization": f"Bearer {token}"})
            refused = client.get("/orders", headers={"Authorization": "Bearer x.y.z"})
            too_large = client.post("/checkout", content=b" " * 70_000)
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert (orders.status_code, orders.json()["orders"]) == (200, [])
    assert refused.status_code == 401
    assert too_large.status_code == 413
    assert "Server" not in ready.headers
    log = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert "token refused" in {line["event"] for line in lines}
    assert token not in log
    assert "/livez" not in log
