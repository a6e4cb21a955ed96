"""What the endpoints share: opened with the app, closed with it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from orderflow.api.auth import Tokens
from orderflow.api.background import Background
from orderflow.api.leaving import Leaving
from orderflow.api.limits import Backlog, InFlight
from orderflow.api.rates import Rates
from orderflow.api.streams import OrderStreams
from orderflow.db import Reads
from orderflow.resources import Resources


@dataclass(frozen=True, slots=True)
class State:
    """The open resources of the process, the check of tokens, the limits on checkouts, its end.

    `reads` is where orders are looked at that nothing is done to: a replica, where there is one.
    `background` is for what goes on after its request was answered, `streams` for who follows an
    order.
    """

    resources: Resources
    reads: Reads
    tokens: Tokens
    checkouts: InFlight
    backlog: Backlog
    per_user: Rates
    per_address: Rates
    leaving: Leaving
    background: Background
    streams: OrderStreams


def state_of(request: Request) -> State:
    """Return the state of the app that answers this request."""
    state: State = request.app.state.shared
    return state
