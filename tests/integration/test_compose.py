"""deploy/compose.yaml: what the specification says of it, and what we promise of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from tests.conftest import SECRET, process_environment, start_program, wait_until
from tests.deploying import DEPLOY, SECRETS, said_of, settings_of

from orderflow.sandbox.servers import free_port, own_redis, port_is_taken

FILE = DEPLOY / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STORES = {"postgres", "redis"}
APIS = {"api-1", "api-2"}
PROGRAMS = {"migrate", *APIS, "payment", "notification", "order", "exporter"}


def of_every(names: set[str] = frozenset(SERVICES)) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", sorted(names))


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def environment(name: str) -> dict[str, str]:
    """Return what the file itself sets, with something in the place of each secret."""
    given = SERVICES[name]["environment"]
    filled = {key: SECRETS.get(key, str(value)) for key, value in given.items()}
    assert "${" not in "".join(filled.values())
    return filled


def test_the_specification_takes_it():
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_there_is_all_that_a_shop_is():
    others = {"balancer", "prometheus", "grafana"}
    assert set(SERVICES) == STORES | PROGRAMS | others


@of_every()
def test_a_container_can_do_little_and_take_little(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not re.match(r"(0|root)\b", service["user"])
    assert service["init"] is True
    for limit in ("cpus", "mem_limit", "pids_limit"):
        assert service[limit], limit
    # A tag of its own, and none that is another image tomorrow.
    assert re.search(r":[^:]*\d|\$\{ORDERFLOW_IMAGE:\?", service["image"])
    assert ":latest" not in service["image"]


@of_every(set(SERVICES) - {"migrate"})
def test_it_is_seen_whether_a_container_is_well(name):
    kind, *_ = SERVICES[name]["healthcheck"]["test"]
    assert kind in {"CMD", "CMD-SHELL"}
    assert SERVICES[name]["restart"] == "unless-stopped"


@of_every()
def test_no_secret_has_a_default(name):
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|AUTH", variable):
            assert re.fullmatch(r"\$\{\w+:\?\}", value), variable
        if str(value).startswith(("postgresql:", "redis:")):
            assert re.search(r":\$\{\w+:\?\}@", value), variable
    # One that is not given is asked for, and never empty.
    whole = yaml.safe_dump(SERVICES[name])
    assert re.findall(r"\$\{\w+(?!\w|:\?)[^}]*\}", whole) == []


def test_only_customers_and_this_machine_reach_a_port():
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {
        "balancer": ["8080:8080", "127.0.0.1:8081:8081"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    for name in STORES:
        assert SERVICES[name]["networks"] == ["data"]
    assert COMPOSE["networks"]["data"] == {"internal": True}
    reach_the_stores = {name for name, each in SERVICES.items() if "data" in each["networks"]}
    assert reach_the_stores == STORES | PROGRAMS


@of_every(PROGRAMS - {"migrate"})
def test_a_program_waits_for_the_schema_and_drains(name):
    service = SERVICES[name]
    assert {one: each["condition"] for one, each in service["depends_on"].items()} == {
        "migrate": "service_completed_successfully",
        "redis": "service_healthy",
        "postgres": "service_healthy",
    }
    settings = settings_of(environment(name))
    least_ms = settings.shutdown_grace_ms + settings.drain_timeout_ms
    assert 1_000 * seconds(service["stop_grace_period"]) > least_ms
    # HAProxy finds out within two of its intervals.
    assert settings.shutdown_grace_ms == (5_000 if name in APIS else 0)


@of_every(PROGRAMS)
def test_the_image_runs_the_command(name):
    assert "Usage:" in said_of(*SERVICES[name]["command"])


def test_the_connections_that_the_programs_may_have_are_there():
    running = PROGRAMS - {"migrate", "exporter"}
    asked = sum(settings_of(environment(name)).database_pool_size for name in running)
    [most] = re.findall(r"max_connections=(\d+)", " ".join(SERVICES["postgres"]["command"]))
    assert asked + 20 <= int(most)


def test_the_balancer_is_believed_and_finds_the_apis():
    [network] = COMPOSE["networks"]["edge"]["ipam"]["config"]
    balancer = SERVICES["balancer"]["environment"]
    for number, name in enumerate(sorted(APIS), start=1):
        assert environment(name)["FORWARDED_ALLOW_IPS"] == network["subnet"]
        assert balancer[f"API_{number}"] == f"{name}:{environment(name)['PORT']}"
        assert "edge" in SERVICES[name]["networks"]


def test_whatever_is_mounted_exists():
    files = [config["file"] for config in COMPOSE["configs"].values()]
    for service in SERVICES.values():
        mounts = [volume.split(":")[0] for volume in service.get("volumes", [])]
        files += [mount for mount in mounts if mount.startswith(".")]
        named = {mount for mount in mounts if not mount.startswith(".")}
        assert named <= set(COMPOSE["volumes"])
        assert {config["source"] for config in service.get("configs", [])} <= set(
            COMPOSE["configs"]
        )
    assert len(files) == 6
    assert all((DEPLOY / file).exists() for file in files)


def test_prometheus_asks_every_program_and_as_often_as_elsewhere():
    here = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text("utf-8"))
    elsewhere = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert here["global"] == elsewhere["global"]
    assert here["rule_files"] == elsewhere["rule_files"]
    asked: dict[str, set[str]] = {
        job["job_name"]: {target for each in job["static_configs"] for target in each["targets"]}
        for job in here["scrape_configs"]
    }
    assert list(asked) == [job["job_name"] for job in elsewhere["scrape_configs"]]
    served = {f"{name}:{environment(name)['METRICS_PORT']}" for name in PROGRAMS - {"migrate"}}
    assert set().union(*asked.values()) == served


@pytest.fixture
def redis_of_compose(tmp_path: Path) -> Iterator[redis.Redis]:
    """The Redis of the file, run by the very command, but on a port of this machine."""
    port, password = free_port(), "p-1"
    [shell, flag, command] = SERVICES["redis"]["command"]
    here = command.replace("$$", "$").replace(
        "redis-server /etc/redis/redis.conf",
        f"{own_redis()} {DEPLOY}/compose/redis.conf --port {port}",
    )
    process = subprocess.Popen(
        [shell, flag, here],
        cwd=tmp_path,
        env={"REDISCLI_AUTH": password, "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: port_is_taken(port), "Redis")
        with redis.Redis(port=port, password=password, decode_responses=True) as client:
            yield client
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_redis_keeps_jobs_and_asks_for_a_password(redis_of_compose):
    client = redis_of_compose
    wait_until(client.ping, "an answer")
    kept = client.config_get("append*") | client.config_get("maxmemory*")
    assert kept["appendonly"] == "yes"
    assert kept["appendfsync"] == "everysec"
    assert kept["maxmemory-policy"] == "noeviction"
    port = client.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def run_healthcheck(name: str, shipped: str, here: str) -> int:
    _, python, *args = SERVICES[name]["healthcheck"]["test"]
    assert python == "python"
    assert shipped in args[-1]
    args[-1] = args[-1].replace(shipped, here)
    return subprocess.run(
        [sys.executable, *args], stderr=subprocess.DEVNULL, check=False
    ).returncode


def test_the_healthchecks_tell_a_program_that_is_well_from_one_that_is_not(tmp_path, settings):
    api, metrics, nobody = free_port(), free_port(), free_port()
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings)
        | {"PORT": str(api), "METRICS_PORT": str(metrics), "JWT_SECRET": SECRET},
    )
    try:
        wait_until(lambda: port_is_taken(api) and port_is_taken(metrics), "the API")
        assert run_healthcheck("api-1", "127.0.0.1:8000", f"127.0.0.1:{api}") == 0
        assert run_healthcheck("payment", "127.0.0.1:9100", f"127.0.0.1:{metrics}") == 0
    finally:
        assert program.stop() == 0
    assert run_healthcheck("api-1", "127.0.0.1:8000", f"127.0.0.1:{nobody}") != 0
