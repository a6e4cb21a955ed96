"""Which gateway takes the money: the one that PAYMENT_GATEWAY names, ours or a registered one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from orderflow.errors import NoEventsTaken
from orderflow.gateways import Gateway, GatewayEvent
from orderflow.setting_types import GATEWAY_GROUP, OUR_GATEWAYS
from orderflow.settings import Settings


class Adapter(Protocol):
    """What a module, or any object, has to have to be registered as a gateway."""

    def open_gateway(self, settings: Settings) -> AbstractAsyncContextManager[Gateway]:
        """Give the gateway that the settings describe; leaving closes it.

        Nothing is connected before it is used. What cannot work yet, as without a key, says so by
        GatewayUnavailable when it is asked.
        """


class TellingAdapter(Adapter, Protocol):
    """An adapter of a gateway that tells of payments by itself, at /webhooks/<its name>."""

    def read_event(
        self, body: bytes, headers: Mapping[str, str], settings: Settings
    ) -> GatewayEvent:
        """Check the signature and the age of what was sent, and read it.

        Raises WebhooksNotSetUp, EventSignatureWrong or EventUnreadable.
        """


def open_gateway(settings: Settings) -> AbstractAsyncContextManager[Gateway]:
    """Give the gateway that PAYMENT_GATEWAY names, closed on leaving."""
    return _adapter(settings.payment_gateway).open_gateway(settings)


def read_event(
    gateway: str, body: bytes, headers: Mapping[str, str], settings: Settings
) -> GatewayEvent:
    """Check and read what was sent in the name of a gateway.

    Raises NoEventsTaken for another gateway than the shop's, or one that tells of nothing, and what
    the gateway's own `read_event` does.
    """
    adapter = _adapter(gateway) if gateway == settings.payment_gateway else None
    if not hasattr(adapter, "read_event"):
        raise NoEventsTaken(gateway=gateway)
    return cast("TellingAdapter", adapter).read_event(body, headers, settings)


def _adapter(name: str) -> Adapter:
    if name in OUR_GATEWAYS:
        return cast("Adapter", import_module(f"orderflow.gateways.{name}"))
    [registered] = entry_points(group=GATEWAY_GROUP, name=name)
    return cast("Adapter", registered.load())
