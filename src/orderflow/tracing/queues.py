"""Spans of jobs, where they are added and where they are run; they are named as Node names them.

The producer's span goes with the job, and each attempt at the job is its child.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from opentelemetry.trace import SpanKind

from orderflow.bull.ending import Postponed
from orderflow.bull.queues import JobQueues
from orderflow.bull.trace import carrying, current_carrier
from orderflow.bull.worker import Delivery, Processor
from orderflow.contract import NewJob
from orderflow.tracing.spans import carrier_here, context_of, span, trace_id_of


class TracedQueues(JobQueues):
    """Makes a span of each offer of a job, and gives its context to the job."""

    async def offer(self, job: NewJob) -> bool:
        """Add a job whose row is committed, or leave it to the reconciler."""
        queue = self.names.queue_of(job)
        attributes = {
            "bullmq.queue.name": str(queue),
            "bullmq.queue.operation": "add",
            "bullmq.job.name": job.name.value,
            "bullmq.job.id": job.job_id,
        }
        with span(f"add {queue}.{job.name}", SpanKind.PRODUCER, attributes) as made:
            with carrying(carrier_here(current_carrier())):
                taken = await super().offer(job)
            made.set_attribute("orderflow.left_to_reconciler", not taken)
            return taken

    async def add_all(self, jobs: Iterable[NewJob]) -> None:
        """Add many jobs at once, each of which begins a trace of its own.

        The reconciler may add a hundred thousand: one trace of them all could not be looked at.
        """
        with carrying(None):
            await super().add_all(jobs)

    async def replace(self, job: NewJob) -> None:
        """Add a job in place of what is left of a lost one; its trace is its own, too."""
        with carrying(None):
            await super().replace(job)


def traced(process: Processor) -> Processor:
    """Make a span of each attempt, in the trace that the job carries or in a new one."""

    async def run(delivery: Delivery) -> dict[str, Any]:
        came_with = current_carrier()
        attributes: dict[str, str | int] = {
            "bullmq.queue.name": delivery.queue,
            "bullmq.queue.operation": "process",
            "bullmq.job.name": delivery.name,
            "bullmq.job.id": delivery.job_id,
            "bullmq.job.attempts_made": delivery.attempt,
        }
        with (
            span(
                f"process {delivery.queue}",
                SpanKind.CONSUMER,
                attributes,
                parent=context_of(came_with),
                unharmed_by=Postponed,
            ) as made,
            carrying(carrier_here(came_with)),
        ):
            return await process(replace(delivery, trace_id=trace_id_of(made)))

    return run
