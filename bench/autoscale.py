"""What an autoscaler makes of a rush: how late jobs are, and how many pods there are.

    python -m bench.autoscale

It reads thresholds and bounds from deploy/kubernetes, and does what Kubernetes says its autoscaler
does: a look every 15 s; of each metric as many pods as bring it to its threshold, and of all the
most; at most twice the pods or four more at once; no fewer than any look of the last minutes
wanted. A second is a step, and jobs flow. No cluster is run.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.pages import SCALING, put
from bench.report import aligned

_SCALING = Path(__file__).parents[1] / "deploy/kubernetes/overlays/production/scaling.yaml"

#: The autoscaler looks so often; KEDA's answer is of that moment, what the exporter says older.
_SYNC_S = 15
_SCRAPED_BEFORE_S = 15
#: Within a tenth of the target nothing is changed.
_TOLERANCE = 0.1
#: From the wish for a pod to its first job: scheduled, pulled, started, ready.
START_S = 30
#: A pod's slots, and the seconds that a job takes, as scaling.yaml says it has them.
SLOTS = {"payment": 50, "notification": 20}
JOB_S = {"payment": 0.3, "notification": 0.1}


@dataclass(frozen=True)
class Scaler:
    """The bounds and thresholds of one ScaledObject, by what its queries count."""

    least: int
    most: int
    #: Pods are taken away when none of so many seconds wanted them.
    calm_s: int
    waiting: float
    age_s: float
    active: float | None


@dataclass(frozen=True)
class Course:
    """How a run went, by the second."""

    pods: Sequence[int]
    waiting: Sequence[float]
    age_s: Sequence[float]

    @property
    def changes(self) -> int:
        """How often pods were added or taken away."""
        return sum(now != then for then, now in zip(self.pods, self.pods[1:], strict=False))


def read_scaler(name: str) -> Scaler:
    """Read the ScaledObject of a worker."""
    [spec] = [
        one["spec"]
        for one in yaml.safe_load_all(_SCALING.read_text("utf-8"))
        if one["kind"] == "ScaledObject" and one["metadata"]["name"] == f"orderflow-{name}"
    ]
    thresholds = {
        _counted(trigger["metadata"]["query"]): float(trigger["metadata"]["threshold"])
        for trigger in spec["triggers"]
    }
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    return Scaler(
        least=spec["minReplicaCount"],
        most=spec["maxReplicaCount"],
        calm_s=behavior["scaleDown"]["stabilizationWindowSeconds"],
        waiting=thresholds["waiting"],
        age_s=thresholds["age"],
        active=thresholds.get("active"),
    )


def _counted(query: str) -> str:
    if "oldest_waiting" in query:
        return "age"
    return "active" if "active" in query else "waiting"


def follow(
    scaler: Scaler, arrivals: Callable[[int], float], pod_rate: float, slots: int, seconds: int
) -> Course:
    """Let jobs come at a rate for each second, with pods that do `pod_rate` a second each."""
    ready, starting = scaler.least, deque[tuple[int, int]]()
    waiting = 0.0
    pods, depths, ages = [], [], []
    arrived: deque[tuple[int, float]] = deque()
    wishes: deque[tuple[int, int]] = deque()
    seen: deque[tuple[float, float, float]] = deque(maxlen=_SCRAPED_BEFORE_S)
    for now in range(seconds):
        while starting and starting[0][0] <= now:
            ready += starting.popleft()[1]
        arrived.append((now, arrivals(now)))
        waiting += arrived[-1][1]
        done = min(waiting, ready * pod_rate)
        waiting -= done
        _take(arrived, done)
        # Jobs that run are as many as were begun in the time that one takes: Little's law.
        active = min(ready * slots, done * slots / pod_rate)
        age_s = float(now - arrived[0][0]) if waiting > 1e-9 and arrived else 0.0
        seen.append((waiting, active, age_s))
        wanted = ready + sum(count for _, count in starting)
        if now % _SYNC_S == 0:
            wish = _wish(scaler, wanted, ready, seen[0])
            wishes.append((now, wish))
            while wishes[0][0] <= now - scaler.calm_s:
                wishes.popleft()
            if wish > wanted:
                grown = min(wish, max(2 * wanted, wanted + 4))
                starting.append((now + START_S, grown - wanted))
            elif (fewer := max(each for _, each in wishes)) < wanted and not starting:
                ready = fewer
        pods.append(ready)
        depths.append(waiting)
        ages.append(age_s)
    return Course(pods, depths, ages)


def _take(arrived: deque[tuple[int, float]], done: float) -> None:
    """Take the oldest jobs away."""
    while arrived and done >= arrived[0][1] - 1e-9:
        done -= arrived.popleft()[1]
    if arrived:
        at, count = arrived.popleft()
        arrived.appendleft((at, count - done))


def _wish(scaler: Scaler, pods: int, ready: int, seen: tuple[float, float, float]) -> int:
    waiting, active, age_s = seen
    wishes = [_by_average(pods, waiting, scaler.waiting)]
    # What is no average counts the pods that are ready: those that start have no say in it.
    ratio = age_s / scaler.age_s
    wishes.append(pods if abs(ratio - 1) <= _TOLERANCE else math.ceil(ready * ratio))
    if scaler.active is not None:
        wishes.append(_by_average(pods, active, scaler.active))
    return min(scaler.most, max(scaler.least, *wishes))


def _by_average(pods: int, metric: float, threshold: float) -> int:
    near = abs(metric / (threshold * pods) - 1) <= _TOLERANCE
    return pods if near else math.ceil(metric / threshold)


def main() -> int:
    """Say what becomes of a rush, for each worker."""
    rows = [("worker", "jobs/s", "oldest job, s", "late for, s", "pods", "changes in an hour")]
    for name, job_s in JOB_S.items():
        scaler, slots = read_scaler(name), SLOTS[name]
        pod_rate = slots / job_s
        calm = pod_rate * scaler.least * 0.6
        for times in (1, 2, 4, 8):
            course = follow(scaler, rush(calm, times), pod_rate, slots, 3_600)
            late_s = sum(age_s > scaler.age_s for age_s in course.age_s)
            rows.append(
                (
                    name,
                    f"{calm:.0f}, then {times * calm:.0f}",
                    f"{max(course.age_s):.0f}",
                    f"{late_s}",
                    f"{min(course.pods)} to {max(course.pods)}",
                    f"{course.changes}",
                )
            )
    print(aligned(rows))
    put(SCALING, "rush", aligned(rows))
    return 0


def rush(calm: float, times: float, from_s: int = 600) -> Callable[[int], float]:
    """Return a rate that is a multiple of the calm one from a moment on."""
    return lambda now: calm * (times if now >= from_s else 1)


if __name__ == "__main__":
    sys.exit(main())
