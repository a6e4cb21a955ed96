"""Our worker's loop with the options that `python -m orderflow.worker` gives it."""

from __future__ import annotations

import asyncio
import signal
import sys

from orderflow.bull.slots import SlotWorker
from orderflow.bull.taking import Processor
from orderflow.bull.worker import worker_options
from orderflow.collector import collect_rarely
from orderflow.settings import Settings, load_settings


def build(queue: str, process: Processor, concurrency: int, settings: Settings) -> SlotWorker:
    """Return a worker that does not run yet."""
    return SlotWorker(queue, process, worker_options(queue, concurrency, settings))


async def work(queues: list[str], process: Processor, concurrency: int) -> None:
    """Work on the queues until SIGTERM; say `ready` when all are worked on."""
    collect_rarely()
    settings = load_settings()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers = [build(queue, process, concurrency, settings) for queue in queues]
    for worker in workers:
        worker.on("error", lambda error, *_: print("error:", repr(error), file=sys.stderr))
    loops = [asyncio.create_task(worker.run()) for worker in workers]
    print("ready", flush=True)
    await stop.wait()
    await asyncio.gather(*(worker.close() for worker in workers))
    await asyncio.gather(*loops)
