"""What a page shows in the place of what a server that is away would have said."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from redis.exceptions import RedisError

from orderflow.errors import DatabaseUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unknown:
    """What nobody can say just now."""

    reason: str


async def or_unknown(asked: Awaitable[T]) -> T | Unknown:
    """Return what was asked for, or why nobody knows: the rest of the page is shown all the same.

    Only an error's name is told: its text may hold an address or more.
    """
    try:
        return await asked
    except DatabaseUnavailable as error:
        return Unknown(error.reason)
    except (RedisError, OSError) as error:
        return Unknown(type(error).__name__)
