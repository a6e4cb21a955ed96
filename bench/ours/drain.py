"""A worker whose jobs do nothing, or count: `python -m bench.ours.drain QUEUE CONCURRENCY [COUNT]`.

COUNT is the work of each job as turns of an empty loop: work is counted and not timed, so that
it takes longer where another process holds the core.
"""

from __future__ import annotations

import sys

import uvloop
from bullmq import Job

from bench.ours.worker import work


async def _do_nothing(_job: Job, _token: str) -> None:
    return None


def count(turns: int) -> None:
    """Work for so many turns."""
    for _ in range(turns):
        pass


def main() -> None:
    """Work until SIGTERM."""
    queue, concurrency, *turns = sys.argv[1:]

    async def do_work(_job: Job, _token: str) -> None:
        count(int(turns[0]))

    uvloop.run(work([queue], do_work if turns else _do_nothing, int(concurrency)))


if __name__ == "__main__":
    main()
