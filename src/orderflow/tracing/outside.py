"""Spans of what is asked of others: of the gateway for money, of the senders for messages."""

from __future__ import annotations

from datetime import datetime

from opentelemetry.trace import SpanKind

from orderflow.gateways import (
    ActionRequired,
    Charge,
    Declined,
    EntryKind,
    Gateway,
    Outcome,
    Page,
    Refund,
    Refunded,
    RefundOutcome,
    Reply,
)
from orderflow.senders import Message, Sender
from orderflow.tracing.spans import span


class TracedGateway:
    """Makes a span of each question to `gateway`, with the payment's key and what came of it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def charge(self, charge: Charge) -> Reply:
        """Take the money, or return what came of this key before."""
        with span("charge", SpanKind.CLIENT, {"orderflow.payment": charge.key}) as made:
            outcome = await self._gateway.charge(charge)
            made.set_attribute("orderflow.outcome", _word(outcome))
            return outcome

    async def find(self, charge: Charge) -> Reply | None:
        """Return what came of the charge with this key, or None if there was none."""
        with span("find charge", SpanKind.CLIENT, {"orderflow.payment": charge.key}) as made:
            outcome = await self._gateway.find(charge)
            made.set_attribute("orderflow.outcome", _word(outcome))
            return outcome

    async def cancel(self, charge: Charge) -> Outcome | None:
        """See to it that no money comes of this key any more; return its outcome if it had one."""
        with span("cancel charge", SpanKind.CLIENT, {"orderflow.payment": charge.key}) as made:
            outcome = await self._gateway.cancel(charge)
            made.set_attribute("orderflow.outcome", _word(outcome))
            return outcome

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, or return what came of this key before."""
        with span("refund", SpanKind.CLIENT, _of(refund)) as made:
            outcome = await self._gateway.refund(refund)
            made.set_attribute("orderflow.outcome", _refund_word(outcome))
            return outcome

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return what came of the refund with this key, or None if there was none."""
        with span("find refund", SpanKind.CLIENT, _of(refund)) as made:
            outcome = await self._gateway.find_refund(refund)
            made.set_attribute("orderflow.outcome", _refund_word(outcome))
            return outcome

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        """Return a page of the books: what was made from `since` on and before `until`."""
        with span(f"list {kind.value}s", SpanKind.CLIENT) as made:
            page = await self._gateway.entries(kind, since, until, after)
            made.set_attribute("orderflow.entries", len(page.entries))
            return page


class TracedSender:
    """Makes a span of each message that `sender` sends, with its reference and not its words."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.channel = sender.channel

    async def send(self, message: Message) -> str:
        """Hand the message over; return the sender's reference for it."""
        attributes = {"orderflow.message": message.reference}
        with span(f"send {self.channel.value}", SpanKind.CLIENT, attributes):
            return await self._sender.send(message)


def _word(reply: Reply | None) -> str:
    match reply:
        case None:
            return "unknown"
        case Declined():
            return "declined"
        case ActionRequired():
            return "action required"
    return "paid"


def _of(refund: Refund) -> dict[str, str]:
    return {"orderflow.payment": refund.charge_key, "orderflow.refund": refund.key}


def _refund_word(outcome: RefundOutcome | None) -> str:
    match outcome:
        case None:
            return "unknown"
        case Declined():
            return "declined"
        case Refunded():
            return "refunded"
    return "pending"
