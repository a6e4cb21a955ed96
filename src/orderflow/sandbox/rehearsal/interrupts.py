"""Ctrl-C and its like: they end the rehearsal, but not in the middle of a start or a stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """A signal asked for the end. No `except Exception` takes it for a fault."""


class Interrupts:
    """Raises Interrupted for SIGINT, SIGTERM and SIGHUP; where they are held, after that."""

    def __init__(self) -> None:
        self._held = False
        self._came = False
        # SIGINT too: a shell that starts this in the background has it ignored.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back, so that what is begun here is known to whoever must end it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise Interrupted

    def hold(self) -> None:
        """Hold signals back for good: the end has begun."""
        self._held = True

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._held:
            self._came = True
        else:
            raise Interrupted
