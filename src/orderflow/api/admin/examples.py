"""What the admin API answers, as an example of each: made of the classes that it answers with."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from orderflow.forget import Forgotten
from orderflow.operations.audit import Action, Outcome
from orderflow.operations.bulk import BulkAction, DryRun
from orderflow.operations.failures import Failure, FailureGroup
from orderflow.operations.jobs import JobDetails, JobSummary
from orderflow.operations.orders import FoundOrder
from orderflow.operations.queues import QueueSummary, RateLimit
from orderflow.operations.story import Story, StoryEvent
from orderflow.operations.workers import CurrentJob, Fleet, WorkerInfo
from orderflow.orders import (
    OrderRefund,
    OrderStatus,
    PaymentStatus,
    RefundCause,
    RefundStatus,
    Shipment,
)

AT = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
ORDER = UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b")
PAYMENT = UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5c")
BULK = UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5d")
QUEUE, JOB, GROUP = "payment-processing", f"payment-{PAYMENT}", "5f2d6c0e9b7a4831"
WORKER = "shop-1-4711"

SUMMARY = QueueSummary(
    name=QUEUE,
    counts={"waiting": 12, "active": 10, "delayed": 3, "failed": 1, "completed": 1000}
    | {"paused": 0, "waiting-children": 0},
    paused=False,
    oldest_s=1.25,
    completed=48_213,
    failed=7,
    completed_per_minute=412.6,
    failed_per_minute=0.2,
    concurrency=None,
    rate_limit=RateLimit(100, 1_000),
    limited_ms=0,
    workers=4,
)
FAILURE = Failure(
    id=42,
    at=AT,
    queue=QUEUE,
    job_id=JOB,
    job_name="process-payment",
    order_id=ORDER,
    attempt=3,
    final=True,
    error_type="GatewayUnavailable",
    message="The payment gateway gave no outcome: ReadTimeout.",
    stack="Traceback (most recent call last): …",
    fingerprint=GROUP,
    worker=WORKER,
)
FAILED_JOB = JobSummary(
    queue=QUEUE,
    id=JOB,
    name="process-payment",
    state="failed",
    priority=1,
    attempts_made=3,
    max_attempts=3,
    added_at=AT,
    started_at=AT,
    ended_at=AT,
    due_at=None,
    failed_reason=FAILURE.message,
    worker=WORKER,
    order_id=ORDER,
)
DETAILS = JobDetails(
    summary=FAILED_JOB,
    data={"paymentId": str(PAYMENT), "orderId": str(ORDER), "email": "***"},
    opts={"attempts": 3, "priority": 1},
    return_value=None,
    progress=0,
    stack=[FAILURE.stack],
    logs=[],
    attempts_started=3,
    stalled=0,
    lock_ms=None,
    parent=None,
    scheduler=None,
    failures=[FAILURE],
)
FAILURES = FailureGroup(
    fingerprint=GROUP,
    queue=QUEUE,
    job_name="process-payment",
    error_type="GatewayUnavailable",
    place="sandbox.py:charge",
    example=FAILURE.message,
    example_job_id=JOB,
    failures=1_204,
    finals=398,
    first_seen=AT,
    last_seen=AT,
)
DRY_RUN = DryRun(GROUP, QUEUE, 398, 390, {"completed": 5, "removed": 3}, [JOB])
RUNNING = BulkAction(
    id=BULK,
    kind="retry",
    fingerprint=GROUP,
    queue=QUEUE,
    user="ada",
    reason="the gateway is back",
    per_second=50,
    state="running",
    jobs=398,
    done=120,
    skipped={"completed": 2},
    refused=0,
    refusals=[],
    stop_wanted=False,
    started_at=AT,
    updated_at=AT,
    ended_at=None,
)
FOUND = FoundOrder(
    id=ORDER,
    found_by="e-mail",
    external_id=None,
    user_id="user-1",
    source="checkout",
    status=OrderStatus.CONFIRMED,
    total=Decimal("39.98"),
    currency="EUR",
    payment_id=PAYMENT,
    payment_status=PaymentStatus.COMPLETED,
    created_at=AT,
    updated_at=AT,
)
STORY = Story(
    order_id=ORDER,
    status=OrderStatus.CONFIRMED,
    payment_id=PAYMENT,
    payment_status=PaymentStatus.COMPLETED,
    total=Decimal("39.98"),
    currency="EUR",
    user_id="user-1",
    events=[StoryEvent(AT, "order", "the order was placed", {"total": "39.98"})],
)
FLEET = Fleet(
    workers=[
        WorkerInfo(
            queue=QUEUE,
            name=WORKER,
            language="python",
            host="shop-1",
            process=4711,
            address="10.0.0.7:53812",
            connected_s=86_400,
            silent_s=0.4,
            jobs=[CurrentJob(QUEUE, JOB, "process-payment", AT, 2_600)],
        )
    ],
    unclaimed=[],
)
ACTION = Action(
    id=7,
    at=AT,
    user="ada",
    via="api",
    action="pause",
    target=QUEUE,
    order_id=None,
    reason="the gateway changes its certificate",
    outcome=Outcome.DONE,
    ended_at=AT,
    details={},
)
REFUND = OrderRefund(
    refund_id=UUID("019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5e"),
    cause=RefundCause.REQUEST,
    amount=Decimal("8.90"),
    currency="EUR",
    status=RefundStatus.PENDING,
    decline_reason=None,
    created_at=AT,
    updated_at=AT,
)
FORGOTTEN = Forgotten("forgotten-5f2d6c0e9b7a", {"orders": 3, "notifications": 3}, jobs=2)
SHIPMENT = Shipment(
    carrier="Parcels Ltd",
    tracking_number="00340434161094021501",
    shipped_at=AT,
    delivered_at=None,
)
