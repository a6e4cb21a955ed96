"""Timing a queue from outside, and making sure that all of its work was done."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.errors import RowAborted
from bench.processes import Program
from bench.servers import QueueWatch, now_s

#: The first part of the jobs warms up the workers: code is compiled, connections are opened.
_WARM_UP = 0.1
_LOOK_EVERY_S = 0.01
#: A worker that completes nothing for so long does not work.
_PATIENCE_S = 30.0


def jobs_per_second(watch: QueueWatch, jobs: int, programs: Sequence[Program]) -> float:
    """Return the rate from the end of the warm-up to the last job of `jobs`.

    Raises RowAborted when a program ends or nothing goes on.
    """
    first, started_s = wait_for(watch, int(jobs * _WARM_UP), programs)
    last, ended_s = wait_for(watch, jobs, programs)
    return (last - first) / (ended_s - started_s)


def check_done(watch: QueueWatch, jobs: int, programs: Sequence[Program]) -> None:
    """Raise RowAborted unless just these jobs were completed, and nothing is left or failed."""
    completed, left = watch.completed(), watch.left()
    if completed != jobs or left:
        tails = "".join(program.tail() for program in programs)
        raise RowAborted(
            f"{completed} of {jobs} jobs were completed, left are {left or 'none'}"
            f" {watch.first_failure()}{tails}"
        )


def wait_for(watch: QueueWatch, count: int, programs: Sequence[Program]) -> tuple[int, float]:
    """Return how many jobs were completed when at least `count` were, and when."""
    seen, seen_at_s = -1, now_s()
    while True:
        completed, at_s = watch.completed(), now_s()
        if completed >= count:
            return completed, at_s
        if completed > seen:
            seen, seen_at_s = completed, at_s
        elif at_s - seen_at_s > _PATIENCE_S:
            tails = "".join(program.tail() for program in programs)
            raise RowAborted(
                f"nothing was completed for {_PATIENCE_S:.0f} s, after {completed} jobs; left are"
                f" {watch.left()} {watch.first_failure()}{tails}"
            )
        for program in programs:
            program.check()
        time.sleep(_LOOK_EVERY_S)
