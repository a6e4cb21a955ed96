"""The queue contract: what every producer and worker, in Node or in Python, agrees on.

This is the one place where queue names, job names, job options, priorities and payloads are
written. Nothing here does I/O. The values are those of the Node design and must not drift: a
Node service on the same Redis reads and writes the same jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID, uuid5

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orderflow.errors import InvalidPayload

P = TypeVar("P", bound=BaseModel)

#: BullMQ keeps priorities in a 21 bit field; Node refuses larger numbers and so do we.
MAX_PRIORITY = 2_097_151

#: Far less than a cent, and far more than floats lose.
_FLOAT_NOISE = 1e-6

#: Turns a foreign id into a row id. Any fixed UUID would do; it must only never change.
_EXTERNAL_IDS = UUID("6f7264e5-2666-4c6f-9077-000000000000")


class QueueName(StrEnum):
    """The three queues, by the name of their Redis keys."""

    PAYMENTS = "payment-processing"
    NOTIFICATIONS = "notifications"
    ORDERS = "order-processing"


class JobName(StrEnum):
    """The jobs that orderflow adds and runs."""

    PROCESS_PAYMENT = "process-payment"
    ORDER_CONFIRMATION = "order-confirmation"
    PAYMENT_FAILED = "payment-failed"
    ORDER_SHIPPED = "order-shipped"
    ORDER_DELIVERED = "order-delivered"
    ORDER_CANCELLED = "order-cancelled"
    ORDER_REFUNDED = "order-refunded"
    REFUND_PAYMENT = "refund-payment"
    RECONCILE = "reconcile"
    GATEWAY_EVENT = "gateway-event"
    COMPARE_BOOKS = "compare-books"


class Channel(StrEnum):
    """The ways to a customer."""

    EMAIL = "email"
    SMS = "sms"


class PaymentMethod(StrEnum):
    """How a customer pays. `cash` is confirmed without a charge."""

    CARD = "card"
    ONLINE = "online"
    WALLET = "wallet"
    CASH = "cash"


class Priority(StrEnum):
    """The named priorities. Their numbers are settings: see `Priorities`."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Priorities:
    """The number that each named priority has in Redis.

    BullMQ runs the smaller number first, and first in first out within a number. Old Node code
    numbered them 20, 10, 1, so a mixed fleet may have to agree on other numbers.
    """

    high: int = 1
    medium: int = 10
    low: int = 20

    def number(self, priority: Priority) -> int:
        """Return the number that `priority` has in Redis."""
        return int(getattr(self, priority.value))

    def unknown(self, numbers: Iterable[int]) -> list[int]:
        """Return those of `numbers` that no priority has, so that another fleet must have."""
        return sorted(set(numbers) - {self.high, self.medium, self.low})


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The options that every job on every queue is added with. Ages in seconds, delay in ms."""

    attempts: int = 3
    backoff_type: Literal["exponential"] = "exponential"
    backoff_delay_ms: int = 2000
    remove_on_complete_age_s: int = 3600
    remove_on_complete_count: int = 1000
    remove_on_fail_age_s: int = 86400

    def to_bullmq(self) -> dict[str, Any]:
        """Return the options as BullMQ spells them."""
        return {
            "attempts": self.attempts,
            "backoff": {"type": self.backoff_type, "delay": self.backoff_delay_ms},
            "removeOnComplete": {
                "age": self.remove_on_complete_age_s,
                "count": self.remove_on_complete_count,
            },
            "removeOnFail": {"age": self.remove_on_fail_age_s},
        }


JOB_OPTIONS = JobOptions()

#: Jobs in parallel in one worker process, unless the command line says otherwise.
CONCURRENCY = {
    QueueName.PAYMENTS: 10,
    QueueName.NOTIFICATIONS: 20,
    QueueName.ORDERS: 5,
}


def _text_id(value: object) -> object:
    """Read an id as text: Node producers send numbers as well as strings."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _decimal_text(value: object) -> object:
    """Read a JSON number as money: 19.99 is 19.99, and so is what a sum in floats made of it."""
    if not isinstance(value, float):
        return value
    return f"{value:.2f}" if abs(value - round(value, 2)) < _FLOAT_NOISE else str(value)


# The rule stands next to its type: so it is part of the type's own check, which is the fast one.
# PostgreSQL keeps no NUL in a text.
Id = Annotated[
    str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]*$"), BeforeValidator(_text_id)
]
Amount = Annotated[
    Decimal,
    Field(ge=0, max_digits=12, decimal_places=2),
    BeforeValidator(_decimal_text),
]


class Payload(BaseModel):
    """The data of a job. Unknown fields are kept out but do no harm: Node may send more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PaymentData(Payload):
    """The charge that a `process-payment` job asks for."""

    method: PaymentMethod
    amount: Amount


class PaymentJob(Payload):
    """The data of `process-payment`. For an order of ours the row decides, not this."""

    payment_id: Id = Field(alias="paymentId")
    order_id: Id = Field(alias="orderId")
    payment_data: PaymentData = Field(alias="paymentData")


class OrderConfirmationJob(Payload):
    """The data of `order-confirmation`. Adopted orders may have no user."""

    order_id: Id = Field(alias="orderId")
    user_id: Id | None = Field(alias="userId", default=None)


class PaymentFailedJob(Payload):
    """The data of `payment-failed`; `reason` is what the gateway said."""

    order_id: Id = Field(alias="orderId")
    user_id: Id | None = Field(alias="userId", default=None)
    reason: str = "declined"


class OrderEventJob(Payload):
    """The data of `order-shipped`, `order-delivered` and `order-cancelled`."""

    order_id: Id = Field(alias="orderId")
    user_id: Id | None = Field(alias="userId", default=None)


class OrderRefundedJob(OrderEventJob):
    """The data of `order-refunded`: each refund is told by itself."""

    refund_id: UUID = Field(alias="refundId")


class RefundJob(Payload):
    """The data of `refund-payment`. What is given back, the row of the refund says."""

    refund_id: UUID = Field(alias="refundId")
    order_id: Id = Field(alias="orderId")


class GatewayEventJob(Payload):
    """The data of `gateway-event`. What the gateway told, the row of the event says."""

    gateway: Id
    event_id: Id = Field(alias="eventId")


def read_payload(job_name: str, data: object, payload: type[P]) -> P:
    """Return the data of a job as what its handler takes.

    Raises InvalidPayload, which names every fault and shows no data.
    """
    try:
        return payload.model_validate(data)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'data'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise InvalidPayload(job_name=job_name, faults=faults) from None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job of ours, ready to add: its queue, name, id, priority, and its data as JSON has it.

    The data is not made by way of its payload type, which costs more than the add itself; that the
    two agree is tested.
    """

    queue: QueueName
    name: JobName
    job_id: str
    priority: Priority
    data: Mapping[str, Any] = field(repr=False)


def payment_job(payment_id: str, order_id: str, method: str, amount: Decimal) -> NewJob:
    """Return the `process-payment` job of a payment; its id makes a second add a no-op."""
    return NewJob(
        queue=QueueName.PAYMENTS,
        name=JobName.PROCESS_PAYMENT,
        job_id=job_id("payment", payment_id),
        priority=Priority.HIGH,
        data={
            "paymentId": payment_id,
            "orderId": order_id,
            "paymentData": {"method": str(method), "amount": str(amount)},
        },
    )


def order_confirmation_job(order_id: str, user_id: str | None) -> NewJob:
    """Return the job that tells the customer that the order is confirmed."""
    return NewJob(
        queue=QueueName.NOTIFICATIONS,
        name=JobName.ORDER_CONFIRMATION,
        job_id=job_id(JobName.ORDER_CONFIRMATION, order_id),
        priority=Priority.HIGH,
        data={"orderId": order_id, "userId": user_id},
    )


def payment_failed_job(order_id: str, user_id: str | None, reason: str) -> NewJob:
    """Return the job that tells the customer that the payment was declined."""
    return NewJob(
        queue=QueueName.NOTIFICATIONS,
        name=JobName.PAYMENT_FAILED,
        job_id=job_id(JobName.PAYMENT_FAILED, order_id),
        priority=Priority.MEDIUM,
        data={"orderId": order_id, "userId": user_id, "reason": reason},
    )


def order_event_job(kind: JobName, order_id: str, user_id: str | None) -> NewJob:
    """Return the job that tells the customer that the order is shipped, delivered or cancelled."""
    return NewJob(
        queue=QueueName.NOTIFICATIONS,
        name=kind,
        job_id=job_id(kind, order_id),
        priority=Priority.MEDIUM,
        data={"orderId": order_id, "userId": user_id},
    )


def order_refunded_job(refund_id: UUID, order_id: str, user_id: str | None) -> NewJob:
    """Return the job that tells the customer that money is given back."""
    return NewJob(
        queue=QueueName.NOTIFICATIONS,
        name=JobName.ORDER_REFUNDED,
        job_id=job_id(JobName.ORDER_REFUNDED, str(refund_id)),
        priority=Priority.MEDIUM,
        data={"orderId": order_id, "userId": user_id, "refundId": str(refund_id)},
    )


def refund_job(refund_id: UUID, order_id: str) -> NewJob:
    """Return the job that gives money back."""
    return NewJob(
        queue=QueueName.ORDERS,
        name=JobName.REFUND_PAYMENT,
        job_id=job_id("refund", str(refund_id)),
        priority=Priority.MEDIUM,
        data={"refundId": str(refund_id), "orderId": order_id},
    )


def gateway_event_job(gateway: str, event_id: str) -> NewJob:
    """Return the job that does what a gateway's event asks for."""
    return NewJob(
        queue=QueueName.ORDERS,
        name=JobName.GATEWAY_EVENT,
        job_id=job_id(JobName.GATEWAY_EVENT, f"{gateway}-{event_id}"),
        priority=Priority.HIGH,
        data={"gateway": gateway, "eventId": event_id},
    )


def job_id(kind: str, entity_id: str) -> str:
    """Return the deterministic id `<kind>-<entity id>` of one of our jobs.

    A foreign id may hold a colon, which BullMQ reserves for its own keys: such an id is named
    by its row id instead.
    """
    return f"{kind}-{row_id(entity_id) if ':' in entity_id else entity_id}"


def row_id(entity_id: str) -> UUID:
    """Return the UUID under which an order or payment is kept.

    An id that is a UUID is kept as it is. Any other id, as Node producers may use, maps to one
    UUID of its own, always the same, so that rows are found by primary key alone.
    """
    try:
        parsed = UUID(entity_id)
    except ValueError:
        return uuid5(_EXTERNAL_IDS, entity_id)
    return parsed if str(parsed) == entity_id.lower() else uuid5(_EXTERNAL_IDS, entity_id)


def order_row_id(data: object) -> UUID | None:
    """Return the UUID of the order that a job's data name, whoever made them, or None."""
    order_id = _text_id(data.get("orderId")) if isinstance(data, Mapping) else None
    return row_id(order_id) if isinstance(order_id, str) and order_id else None


def gateway_key(payment_id: str) -> str:
    """Return the idempotency key of a payment: its id, wherever a header can carry it.

    A Node worker on the same queue charges with the same key, so the id goes as it is.
    """
    plain = payment_id.isascii() and payment_id.isprintable()
    return payment_id if plain else str(row_id(payment_id))
