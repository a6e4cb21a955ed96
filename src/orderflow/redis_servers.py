"""Where Redis is, and how one logs in there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RedisServers:
    """The Redis that the jobs live on. It may hold passwords, which its repr never shows.

    `dsn` is the URL of the one server.
    """

    dsn: str = field(repr=False)
