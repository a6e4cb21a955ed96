"""What else the machine is doing: on a machine that others use, a run measures them too."""

from __future__ import annotations

import time

import psutil

_LOOK_S = 1.0


def busy_percent() -> float:
    """Return how much of all cores the processes of this machine use, looking for a second."""
    # Not from the machine's own count of idle time: virtual machines lose some of it.
    before = _used_s()
    time.sleep(_LOOK_S)
    used_s = sum(used - before.get(pid, used) for pid, used in _used_s().items())
    return float(100 * used_s / _LOOK_S / (psutil.cpu_count() or 1))


def _used_s() -> dict[int, float]:
    used: dict[int, float] = {}
    for process in psutil.process_iter(["cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            used[process.pid] = times.user + times.system
    return used
