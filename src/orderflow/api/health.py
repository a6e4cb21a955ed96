"""Health, for load balancers and orchestrators: /livez and /readyz."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.api.state import state_of
from orderflow.errors import DatabaseUnavailable

PING_TIMEOUT_S = 1.0

Check = dict[str, str]


async def livez(_request: Request) -> Response:
    """Say that the process answers. It asks nobody: a restart mends no server but this one."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Say whether checkouts can be taken, and how each server is.

    A process that is about to stop says `stopping`, so that a load balancer sends it no more.
    """
    state = state_of(request)
    resources = state.resources
    postgres, redis = await asyncio.gather(_check(resources.db.ping), _check(resources.queues.ping))
    status = "ok"
    if postgres["status"] == "down":
        status = "unavailable"
    elif redis["status"] == "down":
        # Checkouts go on from PostgreSQL while Redis is away, and their jobs follow when it is
        # back: taking the API out of service for it would close the shop.
        status = "degraded"
    if state.leaving.begun:
        status = "stopping"
    return JSONResponse(
        {"status": status, "checks": {"postgres": postgres, "redis": redis}},
        503 if status in {"unavailable", "stopping"} else 200,
    )


async def _check(ping: Callable[[], Awaitable[None]]) -> Check:
    """Ask a server once. Only an error's name is told: its text may hold an address or more."""
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await ping()
    except DatabaseUnavailable as error:
        return {"status": "down", "reason": error.reason}
    except (RedisError, OSError) as error:
        return {"status": "down", "reason": type(error).__name__}
    return {"status": "up"}
