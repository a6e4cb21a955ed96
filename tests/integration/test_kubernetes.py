"""deploy/kubernetes: what kustomize makes of it, what the schemas say, and what we promise."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from bench.autoscale import JOB_S, SLOTS, follow, read_scaler, rush
from tests.deploying import DEPLOY, SECRETS, said_of, settings_of

from orderflow.settings import Settings

FOLDER = DEPLOY / "kubernetes"
BASE, PRODUCTION = "base", "overlays/production"
#: The oldest release that anybody should still run, and the newest that the schemas are there of.
RELEASES = ("1.34", "1.37")
DEPLOYMENTS = ("api", "payment", "notification", "order", "exporter")

Resource = dict[str, Any]


@cache
def resources(folder: str) -> list[Resource]:
    """Return what `kubectl apply -k` would apply."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
    made = subprocess.run(
        [kubectl, "kustomize", str(FOLDER / folder)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return list(yaml.safe_load_all(made.stdout))


def of_kind(*kinds: str) -> list[Resource]:
    return [one for one in resources(PRODUCTION) if one["kind"] in kinds]


def named(kind: str, name: str) -> Resource:
    [found] = [one for one in of_kind(kind) if one["metadata"]["name"] == f"orderflow-{name}"]
    return found


def pod(resource: Resource) -> Resource:
    spec: Resource = resource["spec"]["template"]["spec"]
    return spec


def container(resource: Resource) -> Resource:
    [only] = pod(resource)["containers"]
    found: Resource = only
    return found


def environment(resource: Resource) -> dict[str, str]:
    """Return what the container gets, with something in the place of each secret."""
    one = container(resource)
    [source] = one["envFrom"]
    [settings] = [
        each["data"]
        for each in of_kind("ConfigMap")
        if each["metadata"]["name"] == source["configMapRef"]["name"]
    ]
    own = {
        each["name"]: each["value"] if "value" in each else SECRETS[each["name"]]
        for each in one["env"]
    }
    return settings | own


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    one_of = all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )
    return wanted and one_of


PODS = [f"Deployment {name}" for name in DEPLOYMENTS] + ["Job migrate"]


@pytest.fixture(params=PODS)
def workload(request: pytest.FixtureRequest) -> Resource:
    return named(*request.param.split())


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> Resource:
    return named("Deployment", request.param)


@pytest.mark.parametrize("folder", [BASE, PRODUCTION])
@pytest.mark.parametrize("release", RELEASES)
def test_the_schemas_take_every_resource(folder, release):
    known = [one for one in resources(folder) if not one["apiVersion"].startswith("keda.sh/")]
    assert len(known) > 10
    for one in known:
        kubernetes_validate.validate(one, release, strict=True)


def test_there_is_all_that_a_shop_is():
    found = {f"{one['kind']} {one['metadata']['name']}" for one in of_kind("Deployment", "Job")}
    assert found == {each.replace(" ", " orderflow-") for each in PODS}
    assert {one["metadata"]["namespace"] for one in resources(PRODUCTION)[1:]} == {"orderflow"}


def test_a_pod_passes_the_restricted_standard_and_can_do_little(workload):
    spec, one = pod(workload), container(workload)
    assert spec["automountServiceAccountToken"] is False
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert key not in spec
    assert all("emptyDir" in volume for volume in spec["volumes"])
    [user] = re.findall(r"^USER (\d+):", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert security["runAsUser"] == int(user)


def test_a_pod_says_what_it_needs(workload):
    wanted = container(workload)["resources"]
    assert set(wanted["requests"]) == {"cpu", "memory"}
    assert "memory" in wanted["limits"]


def test_the_image_has_a_tag_of_its_own(workload):
    assert re.search(r":\d+\.\d+\.\d+$", container(workload)["image"])


def test_the_image_runs_the_command(workload):
    assert "Usage:" in said_of(*container(workload)["args"])


def test_the_settings_are_such(workload):
    settings = settings_of(environment(workload))
    assert settings.database_dsn == SECRETS["DATABASE_URL"]


def test_a_secret_is_referred_to_and_never_written(workload):
    assert of_kind("Secret") == []
    secrets = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if "Secret" in str(field.annotation) or "ApiKey" in str(field.annotation)
    }
    assert len(secrets) > 6
    [settings] = of_kind("ConfigMap")
    assert not secrets & set(settings["data"])
    for each in container(workload)["env"]:
        if each["name"] in secrets:
            assert set(each) == {"name", "valueFrom"}
            assert each["valueFrom"]["secretKeyRef"]["name"] == "orderflow"


def test_the_readme_names_every_key_of_the_secret():
    text = (DEPLOY / "README.md").read_text("utf-8")
    keys = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for one in of_kind("Deployment", "Job")
        for each in container(one)["env"]
        if "valueFrom" in each
    }
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_a_pod_has_time_to_drain(deployment):
    settings = settings_of(environment(deployment))
    grace_s = pod(deployment).get("terminationGracePeriodSeconds", 30)
    is_api = deployment["metadata"]["name"] == "orderflow-api"
    assert bool(settings.shutdown_grace_ms) is is_api
    # A preStop would take its time from the same; SHUTDOWN_GRACE_MS is in its place.
    assert "lifecycle" not in container(deployment)
    assert 1_000 * grace_s > settings.shutdown_grace_ms + settings.drain_timeout_ms


def test_a_probe_asks_a_port_that_is_served(deployment):
    one = container(deployment)
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    settings = settings_of(environment(deployment))
    is_exporter = deployment["metadata"]["name"] == "orderflow-exporter"
    served = {"metrics": settings.exporter_port if is_exporter else settings.metrics_port}
    if deployment["metadata"]["name"] == "orderflow-api":
        served["http"] = settings.port
    assert ports == served
    probes = [one[name] for name in one if name.endswith("Probe")]
    assert "readinessProbe" in one
    for probe in probes:
        [where] = [probe[kind] for kind in ("httpGet", "tcpSocket") if kind in probe]
        assert where["port"] in ports


def test_the_selectors_find_their_pods(deployment):
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    name = deployment["metadata"]["name"]
    assert matches(deployment["spec"]["selector"], labels)
    spread = pod(deployment).get("topologySpreadConstraints", [])
    assert len(spread) == (0 if name == "orderflow-exporter" else 2)
    assert all(matches(each["labelSelector"], labels) for each in spread)
    budgets = [
        each["metadata"]["name"]
        for each in of_kind("PodDisruptionBudget")
        if matches(each["spec"]["selector"], labels)
    ]
    assert budgets == ([] if name == "orderflow-exporter" else [name])


def test_customers_reach_the_api_and_no_metrics():
    [service] = of_kind("Service")
    labels = named("Deployment", "api")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def allowed(labels: dict[str, str], way: str) -> list[int | str]:
    """Return the ports that policies let a pod be reached at, or reach."""
    return sorted(
        {
            port["port"]
            for policy in of_kind("NetworkPolicy")
            if matches(policy["spec"]["podSelector"], labels)
            for rule in policy["spec"].get(way, [])
            for port in rule["ports"]
        },
        key=str,
    )


def test_what_is_not_said_is_not_allowed(workload):
    labels = workload["spec"]["template"]["metadata"]["labels"]
    nothing = named("NetworkPolicy", "nothing")["spec"]
    assert matches(nothing["podSelector"], labels)
    assert nothing["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(nothing)
    everywhere = [53, 5432, 6379]
    expected = {
        "api": (["http", "metrics"], [443, 53, 5432, 6379]),
        "payment": (["metrics"], [443, 53, 5432, 6379]),
        "notification": (["metrics"], [443, 465, 53, 5432, 587, 6379]),
        "order": (["metrics"], [443, 53, 5432, 6379]),
        "exporter": (["metrics"], everywhere),
        "migrate": (["metrics"], everywhere),
    }[workload["metadata"]["name"].removeprefix("orderflow-")]
    assert (allowed(labels, "ingress"), allowed(labels, "egress")) == expected


def test_the_migration_can_be_applied_before_all_else():
    first = [
        one
        for one in resources(PRODUCTION)
        if one["metadata"].get("labels", {}).get("orderflow/step") == "migration"
    ]
    assert {one["kind"] for one in first} == {"Namespace", "ConfigMap", "NetworkPolicy", "Job"}
    labels = named("Job", "migrate")["spec"]["template"]["metadata"]["labels"]
    policies = {one["metadata"]["name"] for one in first if one["kind"] == "NetworkPolicy"}
    needed = {
        one["metadata"]["name"]
        for one in of_kind("NetworkPolicy")
        if matches(one["spec"]["podSelector"], labels) and "Egress" in one["spec"]["policyTypes"]
    }
    assert policies == needed


def test_each_is_scaled_by_one_thing():
    scaled = [one["spec"]["scaleTargetRef"]["name"] for one in of_kind("HorizontalPodAutoscaler")]
    scaled += [one["spec"]["scaleTargetRef"]["name"] for one in of_kind("ScaledObject")]
    without = [
        one["metadata"]["name"] for one in of_kind("Deployment") if "replicas" not in one["spec"]
    ]
    assert sorted(scaled) == sorted(without)
    assert set(without) == {"orderflow-api", "orderflow-payment", "orderflow-notification"}


@pytest.mark.parametrize("name", ["payment", "notification"])
def test_the_workers_are_scaled_by_what_works_and_what_waits(name):
    spec = named("ScaledObject", name)["spec"]
    # It would be about the way to no pod at all.
    assert "cooldownPeriod" not in spec
    assert spec["minReplicaCount"] >= 2
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == {"scaleDown": {"stabilizationWindowSeconds": 300}}
    active, waiting, age = (
        (trigger["metadata"], trigger.get("metricType")) for trigger in spec["triggers"]
    )
    assert [kind for _, kind in (active, waiting, age)] == [None, None, "Value"]
    # Without an exporter nobody knows how much there is to do, and no worker is taken away.
    assert {each["ignoreNullValues"] for each, _ in (active, waiting, age)} == {"false"}
    # The thresholds are for as many slots as the workers have: docs/scaling.md.
    slots = container(named("Deployment", name))["args"][-1]
    assert SLOTS[name] == int(slots)
    assert float(active[0]["threshold"]) == pytest.approx(0.7 * SLOTS[name])
    assert float(waiting[0]["threshold"]) == pytest.approx(6 * SLOTS[name] / JOB_S[name])
    assert age[0]["threshold"] == "15"


def test_a_rush_is_worked_off_without_pods_that_come_and_go():
    scaler = read_scaler("payment")
    pod_rate = SLOTS["payment"] / JOB_S["payment"]
    course = follow(scaler, rush(200, 4), pod_rate, SLOTS["payment"], 3_600)
    assert max(course.age_s) < 60
    assert course.age_s[-1] == 0
    assert course.changes < 10
    by_waiting = replace(scaler, active=None)
    flaps = follow(by_waiting, rush(200, 4), pod_rate, SLOTS["payment"], 3_600)
    assert flaps.changes > 3 * course.changes


def test_prometheus_finds_the_programs_under_the_names_that_the_rules_have(tmp_path):
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    [job] = config["scrape_configs"]
    # Debian's Prometheus is built without Kubernetes, and may judge of the rest.
    assert job.pop("kubernetes_sd_configs") == [
        {"role": "pod", "namespaces": {"names": ["orderflow"]}}
    ]
    job["static_configs"] = [{"targets": ["127.0.0.1:9100"]}]
    rest = tmp_path / "prometheus.yml"
    rest.write_text(yaml.safe_dump(config), "utf-8")
    checked = subprocess.run(
        ["promtool", "check", "config", str(rest)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    kept, named_by, _ = job["relabel_configs"]
    assert kept["regex"] == "metrics"
    assert all(
        any(port["name"] == "metrics" for port in container(one)["ports"])
        for one in of_kind("Deployment")
    )
    # Kubernetes' own name of the label app.kubernetes.io/name.
    assert named_by["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
    elsewhere = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert {one["job_name"] for one in elsewhere["scrape_configs"]} == {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for one in of_kind("Deployment")
    }
