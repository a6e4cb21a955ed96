"""Discrete events: a clock, and what works wait for on it.

A work is a generator of steps. A step is a function that is given what to call when it is done, so
that `yield server.use(0.001)` goes on when the server has served it. Nothing here is random: what
is due at the same time goes in the order it was asked for.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator

Done = Callable[[], None]
Step = Callable[[Done], None]
Work = Iterator[Step]


class Simulation:
    """The clock, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Done]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, call: Done) -> None:
        """Call something when so much time has passed."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), call))

    def wait(self, seconds: float) -> Step:
        """Wait, and hold nothing meanwhile."""
        return lambda done: self.after(seconds, done)

    def start(self, work: Work) -> None:
        """Begin a work, which goes on by itself."""

        def go_on() -> None:
            step = next(work, None)
            if step is not None:
                step(go_on)

        self.after(0.0, go_on)

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until something is so, or nothing is due any more."""
        while self._due and not until():
            self.now, _, call = heapq.heappop(self._due)
            call()


class Server:
    """Serves so many at once, the others in their order."""

    def __init__(self, simulation: Simulation, places: int) -> None:
        self.places = places
        self.busy_s = 0.0
        self._simulation = simulation
        self._free = places
        self._queue: deque[tuple[float, Done]] = deque()

    def use(self, seconds: float) -> Step:
        """Hold a place for so long."""

        def begin(done: Done) -> None:
            self._queue.append((seconds, done))
            self._serve()

        return begin

    def _serve(self) -> None:
        while self._free and self._queue:
            seconds, done = self._queue.popleft()
            self._free -= 1
            self.busy_s += seconds
            self._simulation.after(seconds, lambda done=done: self._leave(done))  # type: ignore[misc]

    def _leave(self, done: Done) -> None:
        self._free += 1
        self._serve()
        done()


class Thread:
    """A program that does one thing at a time, for which it needs a core of its machine."""

    def __init__(self, cores: Server) -> None:
        self.busy_s = 0.0
        self._cores = cores
        self._works = False
        self._queue: deque[tuple[float, Done]] = deque()

    def compute(self, seconds: float) -> Step:
        """Compute for so long, after what it was given before."""

        def begin(done: Done) -> None:
            self._queue.append((seconds, done))
            if not self._works:
                self._next()

        return begin

    def _next(self) -> None:
        self._works = bool(self._queue)
        if self._works:
            seconds, done = self._queue.popleft()
            self.busy_s += seconds
            self._cores.use(seconds)(lambda: self._ended(done))

    def _ended(self, done: Done) -> None:
        done()
        self._next()


class Turns:
    """A program that does at once all that has come, and answers at the end of that turn."""

    def __init__(self, cores: Server, turn_s: float) -> None:
        self.busy_s = 0.0
        self.turns = 0
        self._cores = cores
        self._turn_s = turn_s
        self._works = False
        self._waiting: list[tuple[float, Done]] = []

    def ask(self, commands: list[tuple[float, Done]]) -> None:
        """Have commands done that take so long each, besides their share of a turn."""
        self._waiting += commands
        if not self._works:
            self._next()

    def _next(self) -> None:
        self._works = bool(self._waiting)
        if self._works:
            taken, self._waiting = self._waiting, []
            seconds = self._turn_s + sum(each for each, _ in taken)
            self.busy_s += seconds
            self.turns += 1
            self._cores.use(seconds)(lambda: self._ended(taken))

    def _ended(self, taken: list[tuple[float, Done]]) -> None:
        for _, done in taken:
            done()
        self._next()


class Wire:
    """Gathers what a turn of a thread asks of a server, as `orderflow.bull.pipelined` does.

    It goes at the end of the turn, or before that when there is enough of it: `first` commands for
    a server that has nothing of this thread, `more` for one that has.
    """

    def __init__(
        self,
        simulation: Simulation,
        thread: Thread,
        server: Turns,
        *,
        away_s: float,
        first: int,
        more: int,
    ) -> None:
        self._simulation = simulation
        self._thread = thread
        self._server = server
        self._away_s = away_s
        self._first = first
        self._more = more
        self._under_way = 0
        self._unsent: list[tuple[float, Done]] = []

    def ask(self, seconds: float) -> Step:
        """Have a command done that takes so long."""

        def begin(done: Done) -> None:
            self._unsent.append((seconds, lambda: self._answered(done)))
            if len(self._unsent) == 1:
                self._thread.compute(0.0)(self._send)
            if len(self._unsent) >= (self._more if self._under_way else self._first):
                self._send()

        return begin

    def _send(self) -> None:
        sent, self._unsent = self._unsent, []
        if sent:
            self._under_way += len(sent)
            self._simulation.after(self._away_s, lambda: self._server.ask(sent))

    def _answered(self, done: Done) -> None:
        self._under_way -= 1
        done()


class Disk:
    """Flushes what was written before the flush began, for all who wait, in one go."""

    def __init__(self, simulation: Simulation, flush_s: float) -> None:
        self.busy_s = 0.0
        self._simulation = simulation
        self._flush_s = flush_s
        self._waiting: list[Done] = []
        self._flushes = False

    def flush(self) -> Step:
        """Wait for a flush that has this."""

        def begin(done: Done) -> None:
            self._waiting.append(done)
            if not self._flushes:
                self._next()

        return begin

    def _next(self) -> None:
        self._flushes = bool(self._waiting)
        if self._flushes:
            flushed, self._waiting = self._waiting, []
            self.busy_s += self._flush_s
            self._simulation.after(self._flush_s, lambda: self._ended(flushed))

    def _ended(self, flushed: list[Done]) -> None:
        for done in flushed:
            done()
        self._next()


class Batches:
    """Gathers as `orderflow.db.batcher` does: a batch goes at the next turn of its thread."""

    def __init__(
        self,
        simulation: Simulation,
        thread: Thread,
        run: Callable[[int], Work],
        most: int,
        under_way: int,
    ) -> None:
        self.batches = 0
        self._simulation = simulation
        self._thread = thread
        self._run = run
        self._most = most
        self._free = under_way
        self._waiting: deque[Done] = deque()
        self._start_is_due = False

    def ask(self) -> Step:
        """Be done with the batch that this goes with."""

        def begin(done: Done) -> None:
            self._waiting.append(done)
            if self._free and not self._start_is_due:
                self._start_is_due = True
                self._thread.compute(0.0)(self._start)

        return begin

    def _start(self) -> None:
        self._start_is_due = False
        while self._waiting and self._free:
            size = min(self._most, len(self._waiting))
            self._free -= 1
            self.batches += 1
            self._simulation.start(self._batch([self._waiting.popleft() for _ in range(size)]))

    def _batch(self, asked: list[Done]) -> Work:
        yield from self._run(len(asked))
        self._free += 1
        for done in asked:
            done()
        self._start()


class Line:
    """Jobs that wait for whoever takes them, and takers that wait for a job."""

    def __init__(self, jobs: float = 0) -> None:
        self.jobs = jobs
        self._takers: deque[Done] = deque()

    def put(self) -> None:
        """Add a job."""
        if self._takers:
            self._takers.popleft()()
        else:
            self.jobs += 1

    def take(self) -> Step:
        """Wait for a job."""

        def begin(done: Done) -> None:
            if self.jobs:
                self.jobs -= 1
                done()
            else:
                self._takers.append(done)

        return begin
