"""Prometheus beside a shop: what deploy/prometheus/ configures, with the addresses of this shop."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx

from orderflow.sandbox.servers import Server, ServerError, wait_until_it_answers

_PACKAGE = Path(__file__).parents[1]


def own_prometheus() -> str:
    """Return the machine's own prometheus. Raises ServerError that says how to get it."""
    found = shutil.which("prometheus")
    if found is None:
        raise ServerError(
            "prometheus is not on this machine: install the package of that name (apt-get install "
            "prometheus), or put the binary of https://prometheus.io/download/ on the PATH"
        )
    return found


def start_prometheus(
    folder: Path, port: int, targets: Mapping[str, str], *, scrape_every_s: int = 5
) -> Server:
    """Start a Prometheus that keeps its data in `folder`. Raises ServerError.

    `targets` names where each program of the shop serves its metrics, as host:port.
    """
    executable = own_prometheus()
    folder.mkdir(parents=True, exist_ok=True)
    config = _write_config(folder, targets, scrape_every_s)
    log = folder / "prometheus.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                # The histograms name the trace of the last that fell into each bucket.
                "--enable-feature=exemplar-storage",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    server = Server("prometheus", url, port, process, signal.SIGTERM)
    wait_until_it_answers(server, lambda: _is_ready(url), log)
    return server


def _write_config(folder: Path, targets: Mapping[str, str], scrape_every_s: int) -> Path:
    shipped = _shipped()
    # Those of the release before may have had other names.
    shutil.rmtree(folder / "rules", ignore_errors=True)
    shutil.copytree(shipped / "rules", folder / "rules")
    text = (shipped / "prometheus.yml").read_text("utf-8")
    for program, address in targets.items():
        job = re.compile(rf"(job_name: orderflow-{program}\n.*?targets: )\[.*?\]", re.DOTALL)
        text = job.sub(rf"\g<1>[{address}]", text, count=1)
    config = folder / "prometheus.yml"
    config.write_text(re.sub(r"(_interval): \d+s", rf"\g<1>: {scrape_every_s}s", text), "utf-8")
    return config


def _shipped() -> Path:
    """Return the folder of the configuration: in a checkout it is not inside of the package."""
    inside = _PACKAGE / "prometheus"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "deploy" / "prometheus"


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
