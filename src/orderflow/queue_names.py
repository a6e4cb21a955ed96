"""What the queues are called, and their keys in Redis. Nothing here does I/O.

A prefix may have a `*`, which stands for the name of the queue: `{bull-*}` gives each queue a hash
tag of its own, by which a Redis Cluster keeps all keys of one queue together, and not those of all.
"""

from __future__ import annotations

from dataclasses import dataclass

from orderflow.contract import QueueName

_QUEUE = "*"
#: In the place of a queue's name, for what belongs to none.
_NO_QUEUE = "shared"


@dataclass(frozen=True, slots=True)
class QueueNames:
    """How queues and their keys are called under `prefix`, which is QUEUE_PREFIX."""

    prefix: str = "bull"

    def check(self, *, cluster: bool) -> None:
        """Raise ValueError for names that cannot be on a Redis Cluster, if they are to be."""
        if cluster and not self._hash_tag:
            raise ValueError(
                "QUEUE_PREFIX must have a part in braces with REDIS_CLUSTER, as {bull-*}: by it a "
                "cluster keeps all keys of a queue on one server"
            )

    @property
    def _hash_tag(self) -> str:
        """The part of each key that says where it is, as a cluster reads it; empty for none."""
        tag, end, _ = self.prefix.partition("{")[2].partition("}")
        return tag if end else ""

    def prefix_of(self, queue: str) -> str:
        """Return the prefix that BullMQ is given for a queue."""
        return self.prefix.replace(_QUEUE, queue)

    def key(self, queue: str, part: str) -> str:
        """Return the key of one part of a queue, as `wait`, or of one of its jobs by its id."""
        return f"{self.prefix_of(queue)}:{queue}:{part}"

    def all(self) -> list[str]:
        """Return every queue of the contract."""
        return [queue.value for queue in QueueName]

    @property
    def shared_prefix(self) -> str:
        """What the names begin with that belong to no queue."""
        return self.prefix_of(_NO_QUEUE)

    @property
    def orders_changed(self) -> str:
        """The channel on which changed orders are told of: none of BullMQ's."""
        return f"{self.shared_prefix}:orders-changed"

    def outage(self, breaker: str) -> str:
        """Return the key that is there while a breaker is open: none of BullMQ's."""
        return f"{self.shared_prefix}:orderflow:breaker:{breaker}"
