"""Stripe, over PaymentIntents and its official client. docs/stripe.md tells how to set it up.

A charge is two requests. The first makes an intent under the charge's key and takes no money; the
second confirms it, and an intent takes money once. So whoever lost an answer repeats the first
request, is given the same intent by Stripe's idempotency, and asks how that one is now.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import stripe
from stripe.params import PaymentIntentConfirmParams, PaymentIntentCreateParams

from orderflow.contract import PaymentMethod
from orderflow.errors import (
    EventSignatureWrong,
    EventUnreadable,
    GatewayRefused,
    GatewayUnavailable,
    WebhooksNotSetUp,
)
from orderflow.gateways import (
    ActionRequired,
    Approved,
    Charge,
    Declined,
    EntryKind,
    GatewayEvent,
    Outcome,
    Page,
    Refund,
    RefundOutcome,
    Reply,
)
from orderflow.gateways.minor_units import to_minor_units
from orderflow.gateways.stripe_words import (
    NOT_IN_THIS_STATUS,
    PAYMENT_KEY,
    REFUND_KEY,
    CardDeclined,
    KeptFault,
    RequestRefused,
    charge_entry,
    in_our_words,
    key_in,
    reason_of,
    refund_entry,
    refund_outcome,
)
from orderflow.settings import Settings

T = TypeVar("T")

#: An event's signature is taken for so long, as Stripe's own libraries do.
_EVENT_AGE_S = 300
#: Stripe keeps what it answered under a key for a day, a fault of its own too. After so many faults
#: under keys that follow each other it is taken to be down.
_KEYS_TRIED = 3
_PAGE_SIZE = 100


class StripeGateway:
    """Takes money and gives it back by Stripe. Without `client` it is not set up, and says so."""

    def __init__(self, client: stripe.StripeClient | None, timeout_s: float) -> None:
        self._given_client = client
        self._timeout_s = timeout_s

    async def charge(self, charge: Charge) -> Reply:
        """Take the money, or return what came of this key before.

        A charge without a token, and any by the method `online`, is paid by the customer in the
        browser: it is made ready here, and waits.
        """
        intent = await self._intent(charge)
        if isinstance(intent, Declined):
            return intent
        known = await self._reply(intent)
        if known is not None:
            return known
        if charge.token is None or charge.method is PaymentMethod.ONLINE:
            return _waiting(intent)
        return await self._confirm(intent, charge.token)

    async def find(self, charge: Charge) -> Reply | None:
        """Return what came of the charge with this key, or None if there was none.

        Within a day Stripe's idempotency gives the intent, for certain. Later a new one is made,
        and the old one is found by its metadata, which Stripe's search knows within an hour. Since
        a new intent may be one of a look-up before this one, any that nothing came of is taken for
        new. It stays, without money.
        """
        intent = await self._intent(charge)
        if isinstance(intent, Declined):
            return intent
        return await self._reply(intent) or await self._reply_of_another(intent, charge.key)

    async def cancel(self, charge: Charge) -> Outcome | None:
        """See to it that no money comes of this key any more; return its outcome if it had one."""
        intent = await self._intent(charge)
        if isinstance(intent, Declined):
            return intent
        reply = await self._reply(intent) or await self._reply_of_another(intent, charge.key)
        if isinstance(reply, Approved | Declined):
            return reply
        closed = await self._close(reply.transaction_id if reply else intent.id)
        return Approved(closed.id) if closed.status == "succeeded" else None

    async def refund(self, refund: Refund) -> RefundOutcome:
        """Give the money back, or return what came of this key before."""
        for key in _keys(refund.key):
            try:
                made = await self._ask(
                    self._client.v1.refunds.create_async(
                        {
                            "payment_intent": refund.transaction_id,
                            "amount": to_minor_units(refund.amount, refund.currency),
                            "metadata": {REFUND_KEY: refund.key},
                        },
                        {"idempotency_key": key},
                    )
                )
            except KeptFault:
                # Money may have gone back all the same.
                known = await self.find_refund(refund)
                if known is not None:
                    return known
            except RequestRefused as error:
                if error.code == "charge_already_refunded" or error.param == "amount":
                    return Declined(error.code or "amount_too_large")
                raise
            else:
                return refund_outcome(made)
        raise GatewayUnavailable(reason="faults that Stripe keeps")

    async def find_refund(self, refund: Refund) -> RefundOutcome | None:
        """Return what came of the refund with this key, or None if there was none.

        Those of one charge are listed, which Stripe does for certain.
        """
        after: str | None = None
        while True:
            params: dict[str, Any] = {"payment_intent": refund.transaction_id, "limit": _PAGE_SIZE}
            listed = await self._ask(
                self._client.v1.refunds.list_async(params | _after(after))  # type: ignore[arg-type]
            )
            for made in listed.data:
                if key_in(made.metadata, REFUND_KEY) == refund.key:
                    return refund_outcome(made)
            if not (listed.has_more and listed.data):
                return None
            after = listed.data[-1].id

    async def entries(
        self, kind: EntryKind, since: datetime, until: datetime, after: str | None = None
    ) -> Page:
        """Return a page of the books: what was made from `since` on and before `until`."""
        params: dict[str, Any] = {
            "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
            "limit": _PAGE_SIZE,
        } | _after(after)
        v1 = self._client.v1
        if kind is EntryKind.CHARGE:
            charges = await self._ask(v1.charges.list_async(params))  # type: ignore[arg-type]
            entries = [charge_entry(one) for one in charges.data if one.status == "succeeded"]
            return Page(entries, _last_of(charges))
        refunds = await self._ask(v1.refunds.list_async(params))  # type: ignore[arg-type]
        entries = [refund_entry(one) for one in refunds.data if one.status == "succeeded"]
        return Page(entries, _last_of(refunds))

    @property
    def _client(self) -> stripe.StripeClient:
        if self._given_client is None:
            raise GatewayUnavailable(reason="GATEWAY_API_KEY is not set")
        return self._given_client

    async def _intent(self, charge: Charge) -> stripe.PaymentIntent | Declined:
        """Return the intent of this key as it is now, made if there is none; no money is taken.

        Declined where Stripe takes no such amount.
        """
        params: PaymentIntentCreateParams = {
            "amount": to_minor_units(charge.amount, charge.currency),
            "currency": charge.currency.lower(),
            "metadata": {PAYMENT_KEY: charge.key},
        }
        if charge.method is PaymentMethod.ONLINE:
            params["automatic_payment_methods"] = {"enabled": True}
        else:
            # Those of Apple and Google are cards to Stripe, too.
            params["allowed_payment_method_types"] = ["card"]
        for key in _keys(charge.key):
            create = self._client.v1.payment_intents.create_async
            try:
                made = await self._ask(create(params, {"idempotency_key": key}))
            except KeptFault:
                continue
            except RequestRefused as error:
                if error.param == "amount":
                    return Declined(error.code or "amount")
                raise
            # An answer that Stripe kept tells how the intent was when it was made.
            return await self._retrieve(made.id) if _is_kept(made) else made
        raise GatewayUnavailable(reason="faults that Stripe keeps")

    async def _reply_of_another(self, intent: stripe.PaymentIntent, key: str) -> Reply | None:
        quoted = key.replace("\\", "\\\\").replace("'", "\\'")
        query = f"metadata['{PAYMENT_KEY}']:'{quoted}'"
        found = await self._ask(self._client.v1.payment_intents.search_async({"query": query}))
        # What the search tells of them may be old.
        replies = [await self._reply_of(one.id) for one in found.data if one.id != intent.id]
        paid = next((reply for reply in replies if isinstance(reply, Approved)), None)
        return paid or next((reply for reply in replies if reply is not None), None)

    async def _confirm(self, intent: stripe.PaymentIntent, token: str) -> Reply:
        how: PaymentIntentConfirmParams = (
            {"confirmation_token": token}
            if token.startswith("ctoken_")
            else {"payment_method": token}
        )
        try:
            confirmed = await self._ask(
                self._client.v1.payment_intents.confirm_async(intent.id, how)
            )
        except CardDeclined as declined:
            return await self._decline(intent, declined.reason)
        except RequestRefused as error:
            if error.param in how:
                return await self._decline(intent, "invalid_payment_method")
            if error.code != NOT_IN_THIS_STATUS:
                raise
            # Another worker confirmed it.
            return await self._reply_of(intent.id) or _waiting(intent)
        return await self._reply(confirmed) or _waiting(confirmed)

    async def _reply_of(self, intent_id: str) -> Reply | None:
        return await self._reply(await self._retrieve(intent_id))

    async def _reply(self, intent: stripe.PaymentIntent) -> Reply | None:
        """Say what came of an intent; None where nothing did yet."""
        match intent.status:
            case "succeeded":
                return Approved(intent.id)
            case "canceled":
                return Declined(reason_of(intent))
            case "requires_payment_method" if intent.last_payment_error is not None:
                return await self._decline(intent, reason_of(intent))
            case "requires_payment_method" | "requires_confirmation":
                return None
        return _waiting(intent)

    async def _decline(self, intent: stripe.PaymentIntent, reason: str) -> Outcome:
        """Make a decline final: with another card the customer could pay for a cancelled order."""
        closed = await self._close(intent.id)
        return Approved(closed.id) if closed.status == "succeeded" else Declined(reason)

    async def _close(self, intent_id: str) -> stripe.PaymentIntent:
        """Cancel an intent, and return how it is then: succeeded, if the customer was faster."""
        cancel = self._client.v1.payment_intents.cancel_async
        try:
            closed = await self._ask(cancel(intent_id, {"cancellation_reason": "abandoned"}))
        except RequestRefused as error:
            if error.code != NOT_IN_THIS_STATUS:
                raise
            closed = await self._retrieve(intent_id)
        if closed.status not in {"canceled", "succeeded"}:
            # A bank is at it, and is not to be stopped.
            raise GatewayRefused(reason=f"an intent that is {closed.status} cannot be cancelled")
        return closed

    async def _retrieve(self, intent_id: str) -> stripe.PaymentIntent:
        return await self._ask(self._client.v1.payment_intents.retrieve_async(intent_id))

    async def _ask(self, request: Awaitable[T]) -> T:
        """Await Stripe's answer for GATEWAY_TIMEOUT_MS at most."""
        with in_our_words():
            async with asyncio.timeout(self._timeout_s):
                return await request


def _waiting(intent: stripe.PaymentIntent) -> ActionRequired:
    return ActionRequired(intent.id, intent.client_secret or "")


def _last_of(listed: Any) -> str | None:
    return str(listed.data[-1].id) if listed.has_more and listed.data else None


def _after(last: str | None) -> dict[str, str]:
    return {} if last is None else {"starting_after": last}


def _keys(key: str) -> Iterator[str]:
    yield key
    yield from (f"{key}-{number}" for number in range(2, _KEYS_TRIED + 1))


def _is_kept(made: stripe.PaymentIntent) -> bool:
    headers = made.last_response.headers if made.last_response is not None else {}
    return headers.get("idempotent-replayed") == "true"


def read_event(body: bytes, headers: Mapping[str, str], settings: Settings) -> GatewayEvent:
    """Read what Stripe sent to /webhooks/stripe.

    Raises WebhooksNotSetUp without GATEWAY_WEBHOOK_SECRET, EventSignatureWrong for what was not
    signed with it within the last five minutes, or EventUnreadable.
    """
    if settings.gateway_webhook_secret is None:
        raise WebhooksNotSetUp
    secret = settings.gateway_webhook_secret.get_secret_value()
    try:
        stripe.WebhookSignature.verify_header(
            body, headers.get("stripe-signature"), secret, _EVENT_AGE_S
        )
        event = json.loads(body)
        about = event["data"]["object"]
        is_intent = about["object"] == "payment_intent"
        metadata = about.get("metadata") or {}
        paid = is_intent and event["type"] == "payment_intent.succeeded"
        return GatewayEvent(
            id=str(event["id"]),
            type=str(event["type"]),
            key=key_in(metadata, PAYMENT_KEY) if is_intent else None,
            paid=Approved(str(about["id"])) if paid else None,
            happened_at=datetime.fromtimestamp(event["created"], UTC),
        )
    except stripe.SignatureVerificationError:
        raise EventSignatureWrong(header="Stripe-Signature") from None
    except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError):
        raise EventUnreadable from None


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[StripeGateway]:
    """Give Stripe as GATEWAY_API_KEY has it; each request ends after GATEWAY_TIMEOUT_MS."""
    # It tells of requests with what is in them.
    logging.getLogger("stripe").setLevel(logging.WARNING)
    timeout_s = settings.gateway_timeout_ms / 1000
    if settings.gateway_api_key is None:
        yield StripeGateway(None, timeout_s)
        return
    http_client = stripe.HTTPXClient(timeout=timeout_s)
    try:
        client = stripe.StripeClient(
            settings.gateway_api_key.get_secret_value(),
            base_addresses={"api": settings.gateway_url} if settings.gateway_url else {},
            http_client=http_client,
            # An attempt is BullMQ's to make again.
            max_network_retries=0,
        )
        yield StripeGateway(client, timeout_s)
    finally:
        await http_client.close_async()  # type: ignore[no-untyped-call]
