"""Answering scrapes: a process for itself, or a parent for all of its processes.

The processes of one parent share its port. Each of them gives what it counted to the parent, over a
socket in a folder that the parent names in the environment, and takes the lowest number that no
other one holds; a dead process lets go of its number. The parent gives every series the number of
its process. prometheus_client's own way, files that all processes map, knows no exemplars and keeps
the counts of the dead for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TextIO

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from orderflow import metrics
from orderflow.errors import MetricsNotServed, PortTaken

#: Where to answer scrapes: a host and a port.
Address = tuple[str, int]
Collect = Callable[[], Iterable[Metric]]

#: Tells a process where its parent looks for it.
_FOLDER_VARIABLE = "ORDERFLOW_METRICS_FOLDER"
#: A process that stands still for longer is left out of a scrape.
_PATIENCE_S = 1.0
_WAITING_PARENTS = 16


@contextmanager
def serve_process(address: Address | None) -> Iterator[None]:
    """Give what this process counts to the parent, or without one to scrapes at `address`, if any.

    Enter it in the running loop. Raises PortTaken.
    """
    collect = from_loop(_collect)
    # Taken out, so that a program that this one starts does not take a number.
    folder = os.environ.pop(_FOLDER_VARIABLE, None)
    if folder is not None:
        with _tell_parent(Path(folder), collect):
            yield
    elif address is not None:
        with serve_scrapes(address, lambda: _merged({0: collect()})):
            yield
    else:
        yield


@contextmanager
def serve_processes(address: Address | None) -> Iterator[None]:
    """Answer scrapes at `address`, if any, for the processes that are started inside.

    Raises PortTaken, or MetricsNotServed where no temporary folder can be made.
    """
    if address is None:
        yield
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="orderflow-metrics-")
    except OSError as error:
        reason = f"its processes need a temporary folder, {error.strerror}"
        raise MetricsNotServed(reason=reason) from error
    with made as folder:
        os.environ[_FOLDER_VARIABLE] = folder
        try:
            with serve_scrapes(address, lambda: _merged(_ask_processes(Path(folder)))):
                yield
        finally:
            os.environ.pop(_FOLDER_VARIABLE, None)


@contextmanager
def serve_scrapes(address: Address, collect: Collect) -> Iterator[None]:
    """Answer scrapes at `address`, each in a thread of its own. Raises PortTaken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(collect))
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise PortTaken(host=host, port=port, reason=error.strerror or str(error)) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def from_loop(ask: Callable[[], Awaitable[list[Metric]]]) -> Callable[[], list[Metric]]:
    """Return what another thread calls to have `ask` run in the running loop, and its answer."""
    loop = asyncio.get_running_loop()

    async def answer() -> list[Metric]:
        return await ask()

    return lambda: asyncio.run_coroutine_threadsafe(answer(), loop).result()


async def _collect() -> list[Metric]:
    return list(metrics.collect())


class _Collector:
    def __init__(self, collect: Collect) -> None:
        self.collect = collect


@contextmanager
def _tell_parent(folder: Path, collect: Callable[[], list[Metric]]) -> Iterator[None]:
    number, lock = _take_number(folder)
    path = folder / f"{number}.sock"
    # That of a dead process whose number this was.
    path.unlink(missing_ok=True)
    with lock, Listener(str(path), "AF_UNIX", backlog=_WAITING_PARENTS) as listener:
        threading.Thread(
            target=_answer_parent, args=(listener, collect), name="metrics", daemon=True
        ).start()
        yield


def _take_number(folder: Path) -> tuple[int, TextIO]:
    """Return the lowest number that is free, and the file whose lock holds it until its end."""
    for number in itertools.count():
        lock = (folder / f"{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return number, lock
    raise AssertionError("the numbers do not end")


def _answer_parent(listener: Listener, collect: Callable[[], list[Metric]]) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return  # closed
        # The parent may have given up.
        with suppress(OSError), connection:
            connection.send(collect())


def _ask_processes(folder: Path) -> dict[int, list[Metric]]:
    """Return what each process says, all asked at once."""
    asked: dict[int, Connection] = {}
    for path in folder.glob("*.sock"):
        # Nobody listens at that of a dead process.
        with suppress(OSError):
            asked[int(path.stem)] = Client(str(path), "AF_UNIX")
    until = time.monotonic() + _PATIENCE_S
    said: dict[int, list[Metric]] = {}
    for number, connection in sorted(asked.items()):
        with suppress(OSError, EOFError), connection:
            if connection.poll(max(0.0, until - time.monotonic())):
                said[number] = connection.recv()
    return said


def _merged(processes: Mapping[int, Sequence[Metric]]) -> Iterable[Metric]:
    """Give the metrics of all processes, each series with the number of its process."""
    count = GaugeMetricFamily(
        "orderflow_processes", "Processes of this program that answered this scrape."
    )
    count.add_metric([], len(processes))
    families: dict[str, Metric] = {count.name: count}
    for number, said in processes.items():
        for metric in said:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            family.samples += [
                sample._replace(labels={"process": str(number), **sample.labels})
                for sample in metric.samples
            ]
    return families.values()
