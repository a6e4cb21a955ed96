"""Many processes of one worker: they share a queue, end together, and are replaced."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from redis import Redis
from tests.conftest import Program, events, process_environment, start_program, wait_until

from orderflow.bull.queues import open_queues
from orderflow.processes import pause_before_start_s
from orderflow.settings import Settings

#: A job runs until the file `gate` is there.
GATE_WORKER = """
import asyncio
from pathlib import Path

from orderflow.contract import Payload
from orderflow.processor import QueueWorker

worker = QueueWorker("gates", 1)


@worker.handles("pass", Payload)
async def pass_gate(_job, _resources):
    while not Path("gate").exists():
        await asyncio.sleep(0.01)
    return {"passed": True}
"""

#: Another program that is run in many processes: `python -m many COUNT COMMAND…`.
MANY = """
import sys

from orderflow.logs import configure_logs
from orderflow.processes import run_processes

configure_logs("json", "info")
sys.exit(run_processes(sys.argv[2:], int(sys.argv[1])))
"""


class Fleet:
    """Workers of a user's own folder, and what Redis and the machine say of them."""

    def __init__(self, folder: Path, settings: Settings, redis: Redis) -> None:
        self.programs: list[Program] = []
        self._folder = folder
        self._settings = settings
        self._environment = process_environment(settings)
        self._redis = redis
        self._key = f"{settings.queue_prefix}:gates"

    def start(self, *args: str, module: str = "orderflow.worker") -> Program:
        log = self._folder / f"program-{len(self.programs)}.log"
        program = start_program(log, module, *args, environment=self._environment)
        self.programs.append(program)
        return program

    def start_working(self, count: int, *args: str) -> Program:
        """Start that many processes, and return when all of them work."""
        program = self.start("gate", "--processes", str(count), *args)
        wait_until(lambda: len(events(program, "worker started")) == count, "every process")
        return program

    async def add(self, count: int) -> list[str]:
        async with open_queues(self._settings) as queues:
            queue = queues.queue("gates")
            return [str((await queue.add("pass", {}, {})).id) for _ in range(count)]

    async def add_running(self, count: int) -> list[str]:
        ids = await self.add(count)
        wait_until(lambda: self.count("active") == count, "every job at once")
        return ids

    def open_gate(self) -> None:
        (self._folder / "gate").touch()

    def count(self, state: str) -> int:
        key = f"{self._key}:{state}"
        return self._redis.llen(key) if state in {"active", "wait"} else self._redis.zcard(key)

    def pid_of(self, job_id: str) -> int:
        """Return the process that took the job last."""
        host, _, pid = self._redis.hget(f"{self._key}:{job_id}", "pb").rpartition("-")
        assert host == socket.gethostname()
        return int(pid)


@pytest.fixture
def fleet(
    tmp_path: Path, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "gate.py").write_text(GATE_WORKER)
    (tmp_path / "many.py").write_text(MANY)
    monkeypatch.chdir(tmp_path)
    fleet = Fleet(tmp_path, settings, redis)
    yield fleet
    for program in fleet.programs:
        program.process.kill()
        program.process.wait()
        # Processes outlive a parent that is killed; the folder says that a number is still theirs.
        for line in events(program, "process started"):
            with suppress(psutil.Error):
                process = psutil.Process(line["pid"])
                if process.cwd() == str(tmp_path):
                    process.kill()


def children(program: Program) -> list[psutil.Process]:
    return psutil.Process(program.process.pid).children()


def is_gone(process: psutil.Process) -> bool:
    # Where nobody reaps orphans, one that ended stays as a zombie.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_for_stop(program: Program, count: int) -> None:
    """Return when that many processes take no more jobs."""
    wait_until(lambda: len(events(program, "draining")) == count, "the drain of every process")


async def test_every_process_works_on_the_one_queue(fleet):
    program = fleet.start_working(3, "--concurrency", "2")
    ids = await fleet.add_running(6)
    assert {fleet.pid_of(job_id) for job_id in ids} == {child.pid for child in children(program)}
    fleet.open_gate()
    wait_until(lambda: fleet.count("completed") == 6, "the jobs' end")
    assert program.stop() == 0


async def test_options_reach_every_process(fleet, redis):
    args = ("--queue-prefix", "other", "--log-format", "console")
    program = fleet.start("gate", "--processes", "2", *args)

    def waiting() -> list[str]:
        names = [client["name"] for client in redis.client_list()]
        return [name for name in names if name.startswith("other:Z2F0ZXM=:w:")]

    wait_until(lambda: len(waiting()) == 2, "the waits under the other prefix")
    assert program.stop() == 0
    said = program.log.read_text()
    assert said.count("worker stopped") == 2
    assert '{"' not in said


async def test_one_process_works_itself(fleet):
    program = fleet.start("gate", "--processes", "1")
    [job_id] = await fleet.add_running(1)
    assert fleet.pid_of(job_id) == program.process.pid
    assert children(program) == []


async def test_ten_programs_share_the_jobs_and_all_of_them_drain(fleet):
    programs = [fleet.start("gate", "--concurrency", "2") for _ in range(10)]
    wait_until(lambda: all(events(each, "worker started") for each in programs), "every program")
    ids = await fleet.add_running(20)
    later = await fleet.add(10)
    shares = Counter(fleet.pid_of(job_id) for job_id in ids)
    assert shares == {each.process.pid: 2 for each in programs}
    for each in programs:
        each.process.send_signal(signal.SIGTERM)
    for each in programs:
        wait_for_stop(each, 1)
    fleet.open_gate()
    assert [each.process.wait(30) for each in programs] == [0] * 10
    assert (fleet.count("completed"), fleet.count("active")) == (20, 0)
    assert fleet.count("wait") == len(later), "those that nobody had begun are left, each of them"


def from_init(program: Program) -> None:
    program.process.send_signal(signal.SIGTERM)


def from_a_terminal(program: Program) -> None:
    os.killpg(program.process.pid, signal.SIGINT)


def from_systemd(program: Program) -> None:
    program.process.send_signal(signal.SIGTERM)
    wait_for_stop(program, 3)
    for process in children(program):
        process.send_signal(signal.SIGTERM)
    wait_until(lambda: len(events(program, "stopping")) == 3, "the signal to each process")


@pytest.mark.parametrize(
    ("send", "signals_to_processes"), [(from_init, 0), (from_a_terminal, 0), (from_systemd, 3)]
)
async def test_one_signal_drains_every_process(fleet, send, signals_to_processes):
    program = fleet.start_working(3)
    await fleet.add_running(3)
    await fleet.add(1)
    send(program)
    wait_for_stop(program, 3)
    fleet.open_gate()
    assert program.process.wait(30) == 0
    assert len(events(program, "worker stopped")) == 3
    assert len(events(program, "stopping")) == signals_to_processes
    assert (fleet.count("completed"), fleet.count("active"), fleet.count("wait")) == (3, 0, 1)


async def test_a_second_signal_ends_every_process_at_once(fleet):
    program = fleet.start_working(2)
    await fleet.add_running(2)
    started = children(program)
    program.process.send_signal(signal.SIGINT)
    wait_for_stop(program, 2)
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(10) == 1
    assert all(is_gone(process) for process in started)
    assert fleet.count("active") == 2, "left as they were, for other workers"


async def test_a_second_signal_to_one_process_ends_that_one(fleet):
    program = fleet.start_working(2)
    [job_id, _] = await fleet.add_running(2)
    killed = psutil.Process(fleet.pid_of(job_id))
    killed.send_signal(signal.SIGTERM)
    wait_until(lambda: events(program, "stopping"), "its first signal")
    killed.send_signal(signal.SIGTERM)
    wait_until(lambda: events(program, "a process ended; it is started anew"), "its end")
    [death] = events(program, "a process ended; it is started anew")
    assert death["status"] == 128 + signal.SIGTERM


async def test_a_killed_process_is_replaced_and_its_job_taken_over(fleet):
    program = fleet.start_working(2)
    [first, second] = await fleet.add_running(2)
    killed, spared = fleet.pid_of(first), fleet.pid_of(second)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: fleet.pid_of(first) not in {killed, spared}, "the job's second start")
    assert {child.pid for child in children(program)} == {spared, fleet.pid_of(first)}
    [death] = events(program, "a process ended; it is started anew")
    assert death["status"] == -signal.SIGKILL
    fleet.open_gate()
    wait_until(lambda: fleet.count("completed") == 2, "the jobs' end")
    assert program.stop() == 0


async def test_processes_drain_by_themselves_when_the_parent_is_killed(fleet):
    program = fleet.start_working(2)
    await fleet.add_running(2)
    orphans = children(program)
    program.process.kill()
    wait_for_stop(program, 2)
    fleet.open_gate()
    wait_until(lambda: all(is_gone(process) for process in orphans), "the end of all")
    assert len(events(program, "worker stopped")) == 2
    assert fleet.count("completed") == 2


async def test_a_process_that_still_starts_drains_as_well(fleet):
    program = fleet.start("gate", "--processes", "2")
    wait_until(lambda: len(events(program, "process started")) == 2, "every process")
    assert program.stop() == 0
    assert len(events(program, "worker stopped")) == 2


def test_a_wrong_name_is_told_once(fleet):
    program = fleet.start("gaet", "--processes", "3")
    assert program.process.wait(30) == 2
    assert program.log.read_text() == (
        "There is no worker 'gaet'; these exist: gate, notification, order, payment.\n"
    )


def test_a_wrong_setting_is_told_once(fleet):
    program = fleet.start("gate", "--processes", "3", "--queue-prefix", "a:b")
    assert program.process.wait(30) == 2
    assert program.log.read_text().count("QUEUE_PREFIX") == 1


def test_a_setting_that_went_wrong_ends_all(fleet, tmp_path):
    program = fleet.start_working(2)
    (tmp_path / ".env").write_text("PORT=seven\n")
    children(program)[0].kill()
    assert program.process.wait(30) == 2
    assert program.log.read_text().count("PORT: Input should be a valid integer") == 1
    assert len(events(program, "worker stopped")) == 1, "the other one drained"


@pytest.mark.parametrize("count", ["0", "257", "many"])
def test_a_count_of_processes_that_cannot_be_is_refused(fleet, count):
    program = fleet.start("gate", "--processes", count)
    assert program.process.wait(30) == 2
    assert "Invalid value for '--processes'" in program.log.read_text()


def test_the_option_is_told_by_help(fleet):
    program = fleet.start("--help")
    assert program.process.wait(30) == 0
    assert "--processes" in program.log.read_text()


def test_each_death_makes_the_pause_before_the_next_start_longer(fleet):
    program = fleet.start("1", "/bin/sh", "-c", "exit 3", module="many")
    death = "a process ended; it is started anew"
    wait_until(lambda: len(events(program, death)) == 3, "the third death")
    # Nothing runs now, so there is nothing to wait for.
    assert program.stop() == 0
    deaths = [(line["status"], line["pause_s"]) for line in events(program, death)]
    assert deaths == [(3, 0.5), (3, 1.0), (3, 2.0)]
    assert len(events(program, "process started")) == 3


def test_a_pause_is_bounded_and_a_long_life_makes_it_short_again():
    pauses = [0.0]
    for _ in range(8):
        pauses.append(pause_before_start_s(1.0, pauses[-1]))
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert pause_before_start_s(60.0, 10.0) == 0.5


def test_a_program_that_is_not_there_yet_is_started_when_it_is(fleet, tmp_path):
    late = tmp_path / "late"
    program = fleet.start("1", str(late), module="many")
    wait_until(lambda: events(program, "a process cannot be started"), "the first try")
    (tmp_path / "new").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "new").rename(late)
    assert program.process.wait(30) == 2
    assert len(events(program, "process started")) == 1


def test_sigterm_that_ends_a_process_before_it_works_is_no_fault(fleet):
    program = fleet.start("1", "/bin/sleep", "3600", module="many")
    wait_until(lambda: len(events(program, "process started")) == 1, "the process")
    program.process.send_signal(signal.SIGTERM)
    wait_until(lambda: events(program, "stopping all processes"), "the stop")
    children(program)[0].send_signal(signal.SIGTERM)
    assert program.process.wait(30) == 0
