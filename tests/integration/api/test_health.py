"""/livez and /readyz: what is down is said, and Redis alone closes nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from orderflow.sandbox.servers import Server, free_port, start_redis
from orderflow.setting_types import PostgresUrl, RedisUrl
from orderflow.settings import Settings

SECRET = "hunter2"


async def test_alive(api: Any) -> None:
    response = await api.client.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready(api: Any) -> None:
    response = await api.client.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "checks": {"postgres": {"status": "up"}, "redis": {"status": "up"}},
    }


async def test_without_redis_it_is_degraded_but_ready(serve: Any, settings: Settings) -> None:
    away = RedisUrl(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    async with serve(settings.model_copy(update={"redis_url": away})) as api:
        response = await api.client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["postgres"] == {"status": "up"}
    assert response.json()["checks"]["redis"]["status"] == "down"
    assert SECRET not in response.text


async def test_without_postgres_it_is_not_ready(serve: Any, settings: Settings) -> None:
    away = PostgresUrl(f"postgresql://orderflow:{SECRET}@127.0.0.1:{free_port()}/orderflow")
    async with serve(settings.model_copy(update={"database_url": away})) as api:
        response = await api.client.get("/readyz")
        alive = await api.client.get("/livez")

    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable",
        "checks": {
            "postgres": {"status": "down", "reason": "ConnectionRefusedError"},
            "redis": {"status": "up"},
        },
    }
    assert SECRET not in response.text
    assert alive.status_code == 200


@pytest.fixture
def silent_redis(tmp_path: Path) -> Any:
    """A Redis that takes connections and never answers."""
    redis = start_redis(tmp_path / "own-redis", free_port())
    redis.process.send_signal(signal.SIGSTOP)
    yield redis
    redis.kill()


async def test_a_server_that_is_silent_is_waited_for_one_second(
    serve: Any, settings: Settings, silent_redis: Server
) -> None:
    # With a longer time-out of its own, so that it is the check's that ends it.
    silent = {"redis_url": RedisUrl(silent_redis.url), "redis_timeout_ms": 60_000}
    async with serve(settings.model_copy(update=silent)) as api:
        begun = time.monotonic()
        response = await api.client.get("/readyz")
        took_s = time.monotonic() - begun

    assert response.json()["checks"]["redis"] == {"status": "down", "reason": "TimeoutError"}
    assert took_s < 2
