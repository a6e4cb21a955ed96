"""Domain errors: what can go wrong, in the project's own terms.

An error carries its facts as fields and its docstring is its message, filled in with them. What
an error means to a client is decided once, in api/problems.py; what it means to a job is decided
once, in processor.py.
"""

from __future__ import annotations

import inspect
from typing import Any


class OrderflowError(Exception):
    """Something went wrong."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        shown = {
            name: ", ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        super().__init__(inspect.cleandoc(type(self).__doc__ or "").format(**shown))

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


class OutOfStock(OrderflowError):
    """There are not {quantity} of '{sku}' left."""


class UnknownProducts(OrderflowError):
    """The shop does not sell: {skus}."""


class MixedCurrencies(OrderflowError):
    """One order has one currency, but its products are priced in {currencies}."""


class TotalTooLarge(OrderflowError):
    """The total of an order may be {limit} at most."""


class IdempotencyKeyReused(OrderflowError):
    """The Idempotency-Key was used before with another body."""


class OrderNotFound(OrderflowError):
    """There is no order '{order_id}'."""


class IllegalTransition(OrderflowError):
    """Order '{order_id}' is {status} and cannot be {target}; it may become: {legal}."""


class NothingToRefund(OrderflowError):
    """Payment '{payment_id}' is {status}: only one that is completed can be given back."""


class RefundTooLarge(OrderflowError):
    """Of payment '{payment_id}' only {left} {currency} are left to be given back."""


class RefundNotFound(OrderflowError):
    """There is no refund '{refund_id}'."""


class RefundUnsettled(OrderflowError):
    """Refund '{refund_id}' is asked about again in {retry_after_s} s: {reason}."""


class UserHasOpenOrders(OrderflowError):
    """Open orders ({count}) of this user, of which the customer is still to be told: {orders}."""


class DatabaseUnavailable(OrderflowError):
    """PostgreSQL does not answer: {reason}."""


class DatabaseRefused(OrderflowError):
    """PostgreSQL refuses this: {reason}."""


class NotOurReplica(OrderflowError):
    """DATABASE_REPLICA_URL leads to {what}: name a standby of DATABASE_URL's server, or nothing."""


class ReplicaBehind(OrderflowError):
    """The replica is {behind_s} s behind."""


class PoolerInTheWay(OrderflowError):
    """A migration needs a session of its own: let DATABASE_URL lead to no pooler, for it alone."""


class GatewayUnavailable(OrderflowError):
    """The payment gateway gave no outcome: {reason}. The payment stays open and is asked about."""


class GatewayResting(GatewayUnavailable):
    """The payment gateway is left alone for {retry_after_s} s more, since it failed: {reason}."""


class GatewayRefused(OrderflowError):
    """The payment gateway refuses this request as wrong: {reason}."""


class NoEventsTaken(OrderflowError):
    """The shop takes no events of a gateway '{gateway}'."""


class WebhooksNotSetUp(OrderflowError):
    """Events of the gateway cannot be checked: GATEWAY_WEBHOOK_SECRET is not set."""


class EventSignatureWrong(OrderflowError):
    """The header {header} does not sign this body, or did so too long ago."""


class EventUnreadable(OrderflowError):
    """The body is signed, and yet it is no event of the gateway."""


class EventNotFound(OrderflowError):
    """The gateway '{gateway}' told of no event '{event_id}'."""


class WebhookUrlRefused(OrderflowError):
    """A webhook cannot go to '{host}': {reason}."""


class WebhookEndpointNotFound(OrderflowError):
    """There is no webhook endpoint '{endpoint_id}'."""


class WebhookDeliveryNotFound(OrderflowError):
    """The endpoint has no delivery '{delivery_id}'; old ones are removed after a while."""


class SenderUnavailable(OrderflowError):
    """The {channel} could not be handed over: {reason}."""


class SenderBusy(OrderflowError):
    """The {channel} has its turn in {retry_after_s} s: as many go out as its rate allows."""


class AddressRefused(OrderflowError):
    """The {channel} or its address is refused for good: {reason}."""


class TemplateFailed(OrderflowError):
    """The template {file}, line {line}, cannot be filled: {reason}."""


class NotificationBeingSent(OrderflowError):
    """Another worker is sending '{kind}' of order '{order_id}' by {channel} just now."""


class UntrueNotification(OrderflowError):
    """Order '{order_id}' is {status}, so '{kind}' would not be true."""


class AmountMismatch(OrderflowError):
    """The job asks for {asked} but payment '{payment_id}' is for {amount} {currency}; no charge."""


class MethodMismatch(OrderflowError):
    """The job says '{asked}' but payment '{payment_id}' is by '{method}'; no charge."""


class WrongOrder(OrderflowError):
    """The job says order '{asked}' but payment '{payment_id}' is of order '{order_id}'."""


class InvalidPayload(OrderflowError):
    """The data of '{job_name}' is not usable: {faults}."""


class UnknownJob(OrderflowError):
    """The queue '{queue}' has no job named '{job_name}'; it knows: {known}."""


class JobTimedOut(OrderflowError):
    """The handler of '{job_name}' ran longer than its limit of {limit_ms} ms."""


class UnknownQueue(OrderflowError):
    """There is no queue '{queue}'; these are known: {known}."""


class UnknownJobState(OrderflowError):
    """A job is never '{state}'; its states are: {known}."""


class WrongJobState(OrderflowError):
    """Jobs that are {state} cannot be {action} all at once; these can: {known}."""


class JobNotFound(OrderflowError):
    """The queue '{queue}' has no job '{job_id}'; a job that ended is removed after a while."""


class JobIsRunning(OrderflowError):
    """Job '{job_id}' is running just now. Wait for its end: it cannot be {action}."""


class JobNotInState(OrderflowError):
    """Job '{job_id}' is {state}, and only one that is {needed} can be {action}."""


class JobOfSchedule(OrderflowError):
    """Job '{job_id}' is the next one of a schedule, which would be lost with it."""


class FailureGroupNotFound(OrderflowError):
    """There is no group of failures '{fingerprint}'; old ones are removed after a while."""


class BulkActionNotFound(OrderflowError):
    """There is no bulk action '{action_id}'."""


class BulkActionEnded(OrderflowError):
    """Bulk action '{action_id}' has ended: {state}."""


class UnknownWorker(OrderflowError):
    """There is no worker '{name}'; these exist: {known}."""


class TooFewSlots(OrderflowError):
    """Each shard needs a slot: --concurrency {slots} is less than QUEUE_SHARDS {shards}."""


class InvalidWorker(OrderflowError):
    """The worker file {path} is not usable: {reason}."""


class MetricsNotServed(OrderflowError):
    """Metrics cannot be served: {reason}."""


class PortTaken(MetricsNotServed):
    """Cannot listen on {host}:{port}: {reason}."""


class InvalidSettings(OrderflowError):
    """Settings are wrong: {faults}."""


class InvalidCatalogue(OrderflowError):
    """The catalogue {path} is not usable, line {line}: {reason}."""
