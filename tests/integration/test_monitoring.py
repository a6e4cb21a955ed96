"""What watches the shop: rules that are right, and queries that a running system has answers to."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import typer
import yaml
from tests.conftest import (
    SECRET,
    Program,
    process_environment,
    start_program,
    wait_until,
)
from tests.integration.conftest import checkout_body

from orderflow.cli import app as cli
from orderflow.resources import Resources
from orderflow.sandbox.prometheus import start_prometheus
from orderflow.sandbox.servers import Server, ServerError, free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
GRAFANA = REPOSITORY / "deploy" / "grafana"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
PROGRAMS = ("exporter", "api", "payment", "notification", "order")


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules" / file).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules("alerts.yml")
DASHBOARDS = {
    file.stem: json.loads(file.read_text("utf-8"))
    for file in sorted((GRAFANA / "dashboards").glob("*.json"))
}


def of_dashboards() -> dict[str, str]:
    """Return each query of a dashboard by where it is."""
    return {
        f"{name}: {panel['title']} {target['refId']}": target["expr"]
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def of_rules() -> dict[str, str]:
    return {
        rule.get("record") or rule["alert"]: rule["expr"]
        for rule in rules("recording.yml") + ALERTS
    }


def of_scalers() -> dict[str, str]:
    """Return the queries that the workers are scaled by."""
    scaling = REPOSITORY / "deploy" / "kubernetes" / "overlays" / "production" / "scaling.yaml"
    return {
        f"{one['metadata']['name']}, {n}": trigger["metadata"]["query"]
        for one in yaml.safe_load_all(scaling.read_text("utf-8"))
        if one["kind"] == "ScaledObject"
        for n, trigger in enumerate(one["spec"]["triggers"])
    }


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None or shutil.which("prometheus") is None:
        pytest.fail("These tests need Prometheus: make prometheus")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prometheus_takes_the_configuration_and_its_rules(promtool: str):
    checked = run(promtool, "check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_and_stay_silent(promtool: str, file: Path):
    tested = run(promtool, "test", "rules", str(file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_query_of_a_scaler_is_tested_for_what_it_gives():
    cases = yaml.safe_load((PROMETHEUS / "tests" / "scaling.yml").read_text("utf-8"))["tests"]
    tested = [one["expr"] for case in cases for one in case["promql_expr_test"]]
    # With series, and with none.
    assert sorted(tested) == sorted([*of_scalers().values()] * 2)


def test_every_alert_is_made_to_fire_and_to_stay_silent():
    fired, silent = set(), set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for tested in case.get("alert_rule_test", []):
                (fired if tested.get("exp_alerts") else silent).add(tested["alertname"])
    names = [alert["alert"] for alert in ALERTS]
    assert sorted(fired) == sorted(names)
    # Silent at a moment of their own, or for a series beside the one that they fire for.
    beside = {"OrderflowNoWorkers", "OrderflowQueuePaused", "OrderflowJobsStalling"}
    assert silent == set(names) - beside


def test_every_alert_leads_to_a_runbook_and_every_runbook_is_led_to():
    named = {alert["annotations"]["runbook"] for alert in ALERTS}
    pages = {str(page.relative_to(REPOSITORY)) for page in RUNBOOKS.iterdir()}
    assert named == pages
    for alert in ALERTS:
        text = (REPOSITORY / alert["annotations"]["runbook"]).read_text("utf-8")
        assert f"`{alert['alert']}`" in text
        sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert sections == ["Why it is set so", "Look at first", "What to do", "How it ends"]


def test_the_commands_of_the_runbooks_exist_with_their_options():
    root = typer.main.get_command(cli)
    said = [
        command
        for page in RUNBOOKS.iterdir()
        for command in re.findall(
            r"(?:^|`|\()orderflow ([a-z][^`|\n]*)", page.read_text(), re.MULTILINE
        )
    ]
    assert len(said) > 20
    for text in said:
        name, *args = shlex.split(text.replace("…", "{}"), comments=True)
        command = root.get_command(click.Context(root), name)
        assert command is not None, text
        command.make_context(name, args, resilient_parsing=True)


def test_the_list_of_alerts_is_that_of_the_rules():
    text = (REPOSITORY / "docs" / "monitoring.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| \[.*\]\((.*)\) \|$", text, re.MULTILINE)
    assert listed == [
        (
            alert["alert"],
            alert["labels"]["severity"],
            alert["annotations"]["runbook"].removeprefix("docs/"),
        )
        for alert in ALERTS
    ]


def test_whatever_is_asked_for_has_a_name_that_is_explained():
    text = (REPOSITORY / "docs" / "metrics.md").read_text("utf-8")
    explained = set(re.findall(r"`((?:orderflow|bullmq|process)_\w+)`", text))
    asked = {
        name
        for expr in [*of_dashboards().values(), *of_rules().values(), *of_scalers().values()]
        for name in re.findall(r"\b(?:orderflow|bullmq|process)_\w+", expr)
    }
    parts = re.compile(r"_(bucket|sum|count)$")
    assert not {name for name in asked if not explained & {name, parts.sub("", name)}}


def test_the_dashboards_are_what_boards_makes():
    boards = runpy.run_path(str(GRAFANA / "boards.py"))
    made = {board.name: json.loads(boards["text_of"](board)) for board in boards["BOARDS"]}
    assert made == DASHBOARDS, "run: python deploy/grafana/boards.py"


def test_the_dashboards_have_the_source_that_is_provisioned_and_fit_the_screen():
    provisioned = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "orderflow.yml").read_text("utf-8")
    )["datasources"]
    for dashboard in DASHBOARDS.values():
        taken = set()
        for panel in dashboard["panels"]:
            assert [panel["datasource"]["uid"]] == [source["uid"] for source in provisioned]
            grid = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(grid["x"], grid["x"] + grid["w"])
                for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
    uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids) == 5


def test_without_prometheus_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServerError, match="apt-get install prometheus"):
        start_prometheus(tmp_path, 1, {})


@pytest.fixture
def running(
    settings: Settings, resources: Resources, tmp_path: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """Every program of a shop; where the API is, and where each serves its metrics."""
    assert resources
    environment = process_environment(settings) | {
        "JWT_SECRET": SECRET,
        "RECONCILE_INTERVAL_MS": "500",
        "RECONCILE_GRACE_MS": "1",
    }
    metrics = {name: free_port() for name in PROGRAMS}
    api_port = free_port()
    programs: list[Program] = []
    for name, port in metrics.items():
        own = {"EXPORTER_PORT": str(port)} if name == "exporter" else {"METRICS_PORT": str(port)}
        shipped = {"exporter": ["orderflow.exporter"], "api": ["orderflow.api"]}
        program = start_program(
            tmp_path / f"{name}.log",
            *shipped.get(name, ["orderflow.worker", name]),
            environment=environment | own | {"PORT": str(api_port)},
        )
        programs.append(program)
    for name, port in {**metrics, "API": api_port}.items():
        wait_until(lambda port=port: port_is_taken(port), name)
    yield (
        f"http://127.0.0.1:{api_port}",
        {name: f"127.0.0.1:{port}" for name, port in metrics.items()},
    )
    for program in programs:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def prometheus(
    promtool: str, running: tuple[str, dict[str, str]], tmp_path: Path
) -> Iterator[Server]:
    """A Prometheus with the shipped configuration, on all of them."""
    assert promtool
    server = start_prometheus(tmp_path / "prometheus", free_port(), running[1], scrape_every_s=1)
    yield server
    server.stop()


def ask(server: Server, path: str, **params: str) -> Any:
    answer = httpx.get(f"{server.url}/api/v1/{path}", params=params, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def as_values(expr: str) -> str:
    """Return an alert's expression with comparisons that give 0 in the place of nothing."""
    parts = re.split(r"(\{[^}]*\})", expr)
    return "".join(
        part if part.startswith("{") else re.sub(r" (==|>|<) (?!bool)", r" \1 bool ", part)
        for part in parts
    )


async def test_a_running_system_has_data_for_every_query(
    prometheus: Server, running: tuple[str, dict[str, str]], resources: Resources
):
    url, _ = running
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1')}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        for token in ("tok_approve", "tok_decline", "tok_503_twice"):
            answer = await client.post("/checkout", json=checkout_body(paymentToken=token))
            assert answer.status_code == 202, answer.text
    # What no handler knows fails for good, and what is no HTTP is refused.
    await resources.queues.queue("payment-processing").add("no such job", {}, {"attempts": 1})
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(b"\x00\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 400")

    queries = of_dashboards() | {name: as_values(expr) for name, expr in of_rules().items()}
    queries |= of_scalers()
    without = dict(queries)

    def all_have_data() -> bool:
        for name, expr in list(without.items()):
            filled = expr.replace("$__rate_interval", "1m").replace("$queue", ".+")
            if ask(prometheus, "query", query=filled)["result"]:
                del without[name]
        return not without

    try:
        wait_until(all_have_data, "data for every query", 60)
    except AssertionError:
        pytest.fail(f"no data: {without}")
    targets = ask(prometheus, "targets")["activeTargets"]
    assert {target["labels"]["job"] for target in targets} == {
        f"orderflow-{name}" for name in PROGRAMS
    }
    assert {target["health"] for target in targets} == {"up"}
    groups = ask(prometheus, "rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
