"""An order followed by its events, over as many connections as it takes. No I/O.

A connection that ends says nothing of the order: the next one asks for what came after the last
event. The order's own end is told by an event, or by 204 to one who had heard of it.
"""

from __future__ import annotations

import httpx
from httpx_sse import ServerSentEvent

from orderflow.client import calls
from orderflow.client.answers import LiveStatus
from orderflow.client.calls import Call, OrderId
from orderflow.client.failures import unreadable
from orderflow.client.tries import STEP_S, Again, Outcome, Tries

#: The shop sends a comment more often than every 60 s: what is silent for so long is dead.
TIMEOUT = httpx.Timeout(STEP_S, read=60.0)
#: The wait before a stream that was cut is opened again, unless the shop says another.
PAUSE_S = 3.0

_STATUS, _END = "status", "end"
_NO_MORE = 204


class Following:
    """What is known so far. The shop may be away for `deadline_s` between two connections."""

    def __init__(self, order_id: OrderId, after: str | None, deadline_s: float) -> None:
        self._order_id = order_id
        self._after = after
        self._deadline_s = deadline_s
        self._pause_s = PAUSE_S
        self._is_open = False
        self._tries: Tries[None] | None = None
        self.ended = False

    def next_call(self) -> Call[None]:
        """Begin the next connection; return the request for what comes after the last event."""
        self._is_open = False
        return calls.events(self._order_id, self._after)

    def opens(self, response: httpx.Response) -> bool:
        """Say whether the answer is a stream of events. If not, it is for `closed` to judge.

        Raises UnreadableAnswer where it is a success of another kind.
        """
        self.ended = response.status_code == _NO_MORE
        if self.ended or not response.is_success:
            return False
        kind = response.headers.get("Content-Type", "none").partition(";")[0]
        if kind != "text/event-stream":
            raise unreadable(response, f"Content-Type is {kind}, not text/event-stream")
        self._is_open, self._tries = True, None
        return True

    def take(self, sent: ServerSentEvent, response: httpx.Response) -> LiveStatus | None:
        """Return what an event says of the order, if it does. Raises UnreadableAnswer."""
        if sent.retry is not None:
            self._pause_s = sent.retry / 1000
        self.ended = self.ended or sent.event == _END
        if sent.event != _STATUS:
            return None
        status = calls.read_json(sent.data, LiveStatus, response, event_id=sent.id)
        self._after = sent.id
        return status

    def closed(self, outcome: Outcome) -> float:
        """Return how many seconds to wait before the next connection.

        Raises what `Tries.judge` raises where the shop refuses, or was away for too long.
        """
        if self.ended:
            return 0.0
        if self._is_open:
            return self._pause_s
        if self._tries is None:
            self._tries = Tries(calls.events(self._order_id, self._after), self._deadline_s)
        verdict = self._tries.judge(outcome)
        return verdict.wait_s if isinstance(verdict, Again) else 0.0
