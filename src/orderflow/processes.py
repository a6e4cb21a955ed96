"""Many processes of one program: a parent that starts them, replaces the dead, and ends them all.

Parent and processes share a pipe that nothing is ever written to. The parent holds its only write
end, so the processes see the pipe's end when the parent closes it to ask them to stop, and just
as well when the parent died, however it died. A signal could not do both, and would come twice
wherever a supervisor sends its own to every process, as systemd does; a worker takes the second
for the order to end at once. The end of a pipe is seen once, even by a process that still starts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog
import uvloop

log = structlog.get_logger(__name__)

#: Exit statuses, of a process and of the parent.
_DRAINED = 0
_NOT_DRAINED = 1
_WRONG_SETTING = 2

#: Between a death and the next start; it doubles with every death, up to the longest.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
#: A process that lived this long was well: its death is the first again.
_LONG_LIFE_S = 60.0

#: Tells a process which of its file descriptors is the pipe.
_PIPE_VARIABLE = "ORDERFLOW_PARENT_PIPE"


def run_processes(command: Sequence[str], count: int) -> int:
    """Run `command` in `count` processes until SIGTERM or SIGINT; return the exit status.

    The program of `command` calls `stop_with_parent`. The first signal asks every process to
    drain, and a second one kills those that still run. A process that ends by itself is started
    anew after a pause, unless it ended with status 2: a setting is wrong then, and that ends all.
    The status is 0 when all drained, 1 when one did not, 2 after a wrong setting.
    """
    return uvloop.run(_Processes(command).run(count))


def stop_with_parent(stop: asyncio.Event) -> None:
    """Set `stop` when the parent of `run_processes` asks for it, or is gone.

    Call it once, from within the running loop. Nothing happens in a process without such a parent.
    """
    # Taken out, so that a program that this one starts does not read a pipe that it lacks.
    variable = os.environ.pop(_PIPE_VARIABLE, None)
    if variable is None:
        return
    pipe = int(variable)
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(pipe)
        log.info("stopping with the parent process")
        stop.set()

    # Nothing is ever written, so that it can be read means that it has ended.
    loop.add_reader(pipe, on_end)


def pause_before_start_s(lived_s: float, last_pause_s: float) -> float:
    """Return how long to wait after a death; `last_pause_s` is 0 if it is the first."""
    if lived_s >= _LONG_LIFE_S:
        return _FIRST_PAUSE_S
    return min(max(_FIRST_PAUSE_S, 2 * last_pause_s), _LONGEST_PAUSE_S)


class _Processes:
    """The processes of one parent."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._status = _DRAINED
        self._read_end, self._write_end = os.pipe()

    async def run(self, count: int) -> int:
        """Keep `count` processes until a signal, and return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(self._keep_one())
        finally:
            self._stop()
            os.close(self._read_end)
        log.info("all processes ended", status=self._status)
        return self._status

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            log.info("stopping all processes", signal=number.name)
            self._stop()
            return
        log.warning("killing all processes", signal=number.name)
        for process in self._running:
            with suppress(ProcessLookupError):
                process.kill()

    def _stop(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            os.close(self._write_end)

    async def _keep_one(self) -> None:
        """Run one process, and start it anew whenever it ends before it was asked to."""
        pause_s = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._run_one()
            if status == _WRONG_SETTING:
                self._stop()
            if self._stopping.is_set():
                self._note_end(status)
                return
            pause_s = pause_before_start_s(time.monotonic() - started, pause_s)
            log.warning("a process ended; it is started anew", status=status, pause_s=pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _run_one(self) -> int:
        """Run one process to its end and return its status, which is below 0 after a signal."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=os.environ | {_PIPE_VARIABLE: str(self._read_end)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._read_end,),
                # Ctrl-C goes to every process of the terminal's group: it is for the parent alone.
                start_new_session=True,
            )
        except OSError as error:
            # The machine is short of something, or the program is just being replaced.
            log.warning("a process cannot be started", reason=str(error))
            return _NOT_DRAINED
        log.info("process started", pid=process.pid)
        self._running.add(process)
        try:
            return await process.wait()
        finally:
            self._running.discard(process)

    def _note_end(self, status: int) -> None:
        """Remember the worst end for the parent's own."""
        if status == _WRONG_SETTING:
            self._status = _WRONG_SETTING
        # A supervisor's SIGTERM kills only a process that is still starting, and has no jobs yet.
        elif status not in {_DRAINED, -signal.SIGTERM} and self._status == _DRAINED:
            self._status = _NOT_DRAINED
