"""Python's garbage collector, set for a process that serves."""

from __future__ import annotations

import gc

#: A request or a job leaves some hundred objects, nearly all freed as it ends: with Python's own
#: 700 the collector looks at the same living ones after every few of them.
_NEW_OBJECTS = 10_000


def collect_rarely() -> None:
    """Have the collector look for cycles once in 10,000 new objects.

    Where a tenth of the work was looking; what memory that takes does not show.
    """
    gc.set_threshold(_NEW_OBJECTS)


def pass_by_what_is_there() -> None:
    """Have the collector never look at what was made so far: it lives as long as the process.

    Its last look, as the process ends, took 0.2 s of CPU: a hundred that stop together waited 10 s
    for it on two cores.
    """
    gc.freeze()
