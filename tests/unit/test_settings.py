"""Settings: read once, refused by name, and explained in .env.example."""

from __future__ import annotations

from pathlib import Path

import pytest

from orderflow.contract import Priorities
from orderflow.errors import InvalidSettings
from orderflow.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def example_lines() -> dict[str, str]:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_names_every_setting_and_no_other():
    assert set(example_lines()) == {name.upper() for name in Settings.model_fields}


def test_the_example_shows_the_defaults(monkeypatch):
    for name, value in example_lines().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == Settings()


def test_every_setting_has_a_default():
    assert not [name for name, field in Settings.model_fields.items() if field.is_required()]


def test_a_file_is_read_and_the_environment_wins(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("PORT=8100\nEXPORTER_PORT=9200\n")
    monkeypatch.setenv("PORT", "8200")
    settings = load_settings()
    assert (settings.port, settings.exporter_port) == (8200, 9200)


def test_the_command_line_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("QUEUE_PREFIX", "shop")
    assert load_settings(queue_prefix="other").queue_prefix == "other"
    assert load_settings(queue_prefix=None).queue_prefix == "shop"


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("REDIS_PORT", "99999", "REDIS_PORT: Input should be less than or equal to 65535"),
        ("WEB_CONCURRENCY", "many", "WEB_CONCURRENCY: Input should be a valid integer"),
        ("JWT_SECRET", "short", "JWT_SECRET: must have 32 characters or more"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT: Input should be 'json' or 'console'"),
        ("QUEUE_PREFIX", "a:b", "QUEUE_PREFIX: String should match pattern"),
        ("DEFAULT_CURRENCY", "euro", "DEFAULT_CURRENCY: String should match pattern"),
        ("PRIORITY_LOW", "0", "PRIORITY_LOW: Input should be greater than or equal to 1"),
        ("PRIORITY_LOW", "2097152", "PRIORITY_LOW: Input should be less than or equal to 2097151"),
        ("PRIORITY_LOW", "1", "PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW must differ"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d", "DATABASE_URL: String should match pattern"),
        ("REDIS_URL", "http://u:hunter2@h", "REDIS_URL: String should match pattern"),
        (
            "RATE_LIMITS",
            '{"notifications": {"max": 0, "duration": 1}}',
            "RATE_LIMITS: notifications.max: Input should be greater than or equal to 1",
        ),
        ("RATE_LIMITS", "100 a minute", "RATE_LIMITS: must be JSON"),
        ("RATE_LIMITS", "100", "RATE_LIMITS: Input should be a valid dictionary"),
        ("WORKER_HANG_MS", "3000", "WORKER_HANG_MS must be greater than WORKER_LOCK_MS"),
        ("MAIL_FROM", "nobody", "MAIL_FROM: String should match pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_rule(monkeypatch, variable, value, rule):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    assert rule in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_all_wrong_values_are_told_at_once(monkeypatch):
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(InvalidSettings, match=r"PORT: .*; LOG_LEVEL: "):
        load_settings()


def test_secret_and_public_keys_exclude_each_other(monkeypatch):
    monkeypatch.setenv("JWT_SECRET", "x" * 32)
    monkeypatch.setenv("JWT_JWKS", "keys.json")
    with pytest.raises(InvalidSettings, match="JWT_SECRET and JWT_JWKS exclude each other"):
        load_settings()


def test_redis_is_a_url_or_its_parts():
    assert Settings().redis_dsn == "redis://127.0.0.1:6379/0"
    assert Settings(redis_host="r", redis_db=2).redis_dsn == "redis://r:6379/2"
    with_password = Settings(redis_username="u", redis_password="p@ss/word")
    assert with_password.redis_dsn == "redis://u:p%40ss%2Fword@127.0.0.1:6379/0"
    assert Settings(redis_url="rediss://h:1/3", redis_host="r").redis_dsn == "rediss://h:1/3"


def test_secrets_do_not_show():
    settings = Settings(
        jwt_secret="hunter2" * 5,
        redis_password="hunter2",
        redis_url="redis://:hunter2@h",
        database_url="postgresql://u:hunter2@h/d",
        smtp_password="hunter2",
        gateway_api_key="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_the_priorities_are_settings():
    assert Settings().priorities == Priorities(1, 10, 20)
    old_node = Settings(priority_high=20, priority_medium=10, priority_low=1)
    assert old_node.priorities == Priorities(20, 10, 1)


def test_a_dead_workers_jobs_are_with_another_within_five_seconds():
    settings = Settings()
    assert settings.worker_lock_ms + 2 * settings.worker_stalled_interval_ms <= 5_000
