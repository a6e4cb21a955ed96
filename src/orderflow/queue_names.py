"""What the queues are called, and their keys in Redis. Nothing here does I/O.

A prefix may have a `*`, which stands for the name of the queue: `{bull-*}` gives each queue a hash
tag of its own, by which a Redis Cluster keeps all keys of one queue together, and not those of all.

A shard is a queue of its own. The first has the name that every producer knows, the others a number
behind it, from 2; which of them an order's jobs go to is said by the order's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from orderflow.contract import NewJob, QueueName

_QUEUE = "*"
#: In the place of a queue's name, for what belongs to none.
_NO_QUEUE = "shared"
#: Those that every order goes through; the others have little to do.
_SHARDED = frozenset({QueueName.PAYMENTS, QueueName.NOTIFICATIONS})


@dataclass(frozen=True, slots=True)
class QueueNames:
    """How queues and their keys are called, by QUEUE_PREFIX and QUEUE_SHARDS."""

    prefix: str = "bull"
    shards: int = 1

    def check(self, *, cluster: bool) -> None:
        """Raise ValueError for names that do not fit a Redis Cluster, or one Redis."""
        if cluster and not self._hash_tag:
            raise ValueError(
                "QUEUE_PREFIX must have a part in braces with REDIS_CLUSTER, as {bull-*}: by it a "
                "cluster keeps all keys of a queue on one server"
            )
        if self.shards > 1 and not cluster:
            raise ValueError("QUEUE_SHARDS may be more than 1 only with REDIS_CLUSTER=true")
        if self.shards > 1 and _QUEUE not in self._hash_tag:
            raise ValueError(
                "QUEUE_PREFIX must have a * in its braces with QUEUE_SHARDS, as {bull-*}: without "
                "it all shards are on the same server"
            )

    def prefix_of(self, queue: str) -> str:
        """Return the prefix that BullMQ is given for a queue."""
        return self.prefix.replace(_QUEUE, queue)

    def key(self, queue: str, part: str) -> str:
        """Return the key of one part of a queue, as `wait`, or of one of its jobs by its id."""
        return f"{self.prefix_of(queue)}:{queue}:{part}"

    def all(self) -> list[str]:
        """Return every queue of the contract, with all shards."""
        return [shard for queue in QueueName for shard in self.shards_of(queue)]

    def shards_of(self, queue: str) -> list[str]:
        """Return the queues that a queue consists of: itself, and its other shards."""
        count = self.shards if queue in _SHARDED else 1
        return [str(queue), *(f"{queue}-{number}" for number in range(2, count + 1))]

    def queue_of(self, job: NewJob) -> str:
        """Return the queue of a job: that of its order's shard."""
        if self.shards == 1 or job.queue not in _SHARDED:
            return job.queue
        number = crc32(job.data["orderId"].encode()) % self.shards
        return f"{job.queue}-{number + 1}" if number else job.queue

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

    @property
    def _hash_tag(self) -> str:
        """The part of each key that says where it is, as a cluster reads it; empty for none."""
        tag, end, _ = self.prefix.partition("{")[2].partition("}")
        return tag if end else ""


def shares(total: int, parts: int) -> list[int]:
    """Divide as evenly as whole numbers go; the first get what is left over."""
    each, left = divmod(total, parts)
    return [each + (part < left) for part in range(parts)]
