"""What an error of Redis means: the keys are elsewhere, or on the way, or it passes by itself."""

from __future__ import annotations

import re

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


def will_pass(error: ResponseError) -> bool:
    """Say whether Redis says this of itself and not of the command, which it will take later."""
    return _PASSING.search(f"{error.status_code or ''} {error}") is not None


#: At the beginning, where the client may have taken it for the kind of the error; from inside of a
#: script Redis 6.2 says it in the middle.
_PASSING = re.compile(
    r"(^|: -) ?(LOADING|READONLY|BUSY|OOM|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS)\b"
)


def say_of_a_cluster(error: Exception) -> None:
    """Say, once, what is missing if only a node of a Redis Cluster answers so."""
    if isinstance(error, _OF_A_CLUSTER) and not _said:
        _said.append(str(error))
        log.error("this Redis is a node of a cluster", reason=str(error), fix=CLUSTER_FIX)


#: What is to be done where one node of a cluster is taken for a Redis that is alone.
CLUSTER_FIX = "Set REDIS_CLUSTER=true, and QUEUE_PREFIX to one with a hash tag, as {bull-*}"
_OF_A_CLUSTER = (AskError, TryAgainError, ClusterDownError, ClusterCrossSlotError)
_said: list[str] = []
