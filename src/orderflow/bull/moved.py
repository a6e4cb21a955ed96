"""What a reply of Redis says of where the keys are: here, elsewhere, or on the way."""

from __future__ import annotations

import structlog
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

log = structlog.get_logger(__name__)

#: What else a server says that is not to be written to any more. Redis 6.2 says it from inside of a
#: script, whose error it is then; what has no name of its own in the client is only text as well.
_NOT_TO_BE_WRITTEN_TO = (
    "READONLY You can't write against a read only replica",
    "NOREPLICAS Not enough good replicas to write",
    "UNBLOCKED force unblock from blocking operation",
)


def has_left(error: Exception) -> bool:
    """Say whether the command was not done since this server is not, or no more, the master."""
    if isinstance(error, MovedError | ReadOnlyError | ClusterDownError):
        return True
    return isinstance(error, ResponseError) and any(
        said in str(error) for said in _NOT_TO_BE_WRITTEN_TO
    )


def is_moving(error: Exception) -> bool:
    """Say whether the command was not done since its keys are on the way to another server."""
    return isinstance(error, AskError | TryAgainError) and not isinstance(error, MovedError)


def say_of_a_cluster(error: Exception) -> None:
    """Say, once, what is missing if only a node of a Redis Cluster answers so."""
    if isinstance(error, _OF_A_CLUSTER) and not _said:
        _said.append(str(error))
        log.error("this Redis is a node of a cluster", reason=str(error), fix=CLUSTER_FIX)


#: What is to be done where one node of a cluster is taken for a Redis that is alone.
CLUSTER_FIX = "Set REDIS_CLUSTER=true, and QUEUE_PREFIX to one with a hash tag, as {bull-*}"
_OF_A_CLUSTER = (AskError, TryAgainError, ClusterDownError, ClusterCrossSlotError)
_said: list[str] = []
