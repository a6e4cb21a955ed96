"""Settings: read once, refused by name, and explained in .env.example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orderflow.contract import Channel, JobName, Priorities
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


def test_every_setting_is_set_by_a_test_or_told_of_in_the_docs():
    patterns = ("docs/**/*.md", "tests/unit/*.py", "tests/integration/**/*.py", "tests/e2e/*.py")
    files = [file for pattern in patterns for file in EXAMPLE.parent.glob(pattern)]
    texts = [file.read_text("utf-8") for file in files]
    words = {word.lower() for text in texts for word in re.findall(r"[A-Za-z][A-Za-z0-9_]+", text)}
    assert set(Settings.model_fields) - words == set()


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
            "GATEWAY_API_KEY",
            "hunter2\n",
            "GATEWAY_API_KEY: must be printable ASCII, without spaces",
        ),
        (
            "RATE_LIMITS",
            '{"notifications": {"max": 0, "duration": 1}}',
            "RATE_LIMITS: notifications.max: Input should be greater than or equal to 1",
        ),
        ("RATE_LIMITS", "100 a minute", "RATE_LIMITS: must be JSON"),
        ("RATE_LIMITS", "100", "RATE_LIMITS: Input should be a valid dictionary"),
        ("WORKER_HANG_MS", "3000", "WORKER_HANG_MS must be greater than WORKER_LOCK_MS"),
        ("MAIL_FROM", "nobody", "MAIL_FROM: String should match pattern"),
        ("MAIL_RATE", "fast", "MAIL_RATE: must be MAX/SECONDS, as 30/60"),
        ("SMTP_PASSWORD", "hunter2", "SMTP_USERNAME and SMTP_PASSWORD must be set together"),
        ("SMTP_CA_FILE", "/nowhere.pem", "SMTP_CA_FILE: Path does not point to a file"),
        ("TEMPLATES_DIR", "/nowhere", "TEMPLATES_DIR: Path does not point to a directory"),
        ("DEFAULT_LANGUAGE", "German", "DEFAULT_LANGUAGE: String should match pattern"),
        ("TWILIO_FROM", "Shop", "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM must be"),
        ("TWILIO_ACCOUNT_SID", "SK1", "TWILIO_ACCOUNT_SID: String should match pattern"),
        (
            "NOTIFY_PAYMENT_FAILED",
            "post",
            "NOTIFY_PAYMENT_FAILED: must be email, sms, both with a comma between them, or none",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "OTEL_EXPORTER_OTLP_ENDPOINT: String should match pattern",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "hunter2",
            "OTEL_EXPORTER_OTLP_HEADERS: String should match pattern",
        ),
        ("OTEL_TRACES_SAMPLER", "some", "OTEL_TRACES_SAMPLER: Input should be 'always_on', "),
        (
            "OTEL_TRACES_SAMPLER_ARG",
            "2",
            "OTEL_TRACES_SAMPLER_ARG: Input should be less than or equal to 1",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_rule(monkeypatch, variable, value, rule):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    assert rule in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("mark", list("#/?@[]"))
def test_a_password_that_cuts_its_url_is_refused_and_not_shown(monkeypatch, variable, mark):
    scheme = "postgresql" if variable == "DATABASE_URL" else "redis"
    monkeypatch.setenv(variable, f"{scheme}://shop:hunter2{mark}hunter2@h:1/0")
    with pytest.raises(InvalidSettings, match=f"{variable}: is not a URL that can be") as refused:
        load_settings()
    assert "percent-encode" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///shop?host=/run/postgresql",
        "postgresql://u:p%23@h1:5432,h2:5433/shop",
        "postgresql://u:p@[::1]:5432/shop?sslrootcert=/a@b",
    ],
)
def test_urls_of_all_kinds_are_taken(url):
    assert load_settings(database_url=url).database_dsn == url


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
        smtp_username="shop",
        smtp_password="hunter2",
        gateway_api_key="hunter2",
        gateway_webhook_secret="hunter2",
        twilio_account_sid=f"AC{'0' * 32}",
        twilio_auth_token="hunter2",
        twilio_from="Shop",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("given", "channels"),
    [
        ("email,sms", (Channel.EMAIL, Channel.SMS)),
        ("sms, email", (Channel.EMAIL, Channel.SMS)),
        ("sms", (Channel.SMS,)),
        ("none", ()),
    ],
)
def test_the_ways_of_an_event_are_settings(monkeypatch, given, channels):
    monkeypatch.setenv("NOTIFY_ORDER_CONFIRMATION", given)
    settings = load_settings()
    assert settings.channels_of(JobName.ORDER_CONFIRMATION) == channels
    assert settings.channels_of(JobName.PAYMENT_FAILED) == (Channel.EMAIL, Channel.SMS)


def test_one_way_to_send_sms(tmp_path):
    twilio = {
        "twilio_account_sid": f"AC{'0' * 32}",
        "twilio_auth_token": "token",
        "twilio_from": "Shop",
    }
    with pytest.raises(InvalidSettings, match="SMS_FILE and TWILIO_ACCOUNT_SID exclude each other"):
        load_settings(**twilio, sms_file=tmp_path / "sms.jsonl")


def test_the_priorities_are_settings():
    assert Settings().priorities == Priorities(1, 10, 20)
    old_node = Settings(priority_high=20, priority_medium=10, priority_low=1)
    assert old_node.priorities == Priorities(20, 10, 1)


def test_a_dead_workers_jobs_are_with_another_within_five_seconds():
    settings = Settings()
    assert settings.worker_lock_ms + 2 * settings.worker_stalled_interval_ms <= 5_000


def test_traces_without_their_packages_are_refused(monkeypatch):
    monkeypatch.setattr("orderflow.setting_types.find_spec", lambda _name: None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(InvalidSettings, match=r"pip install 'orderflow\[otel\]'") as refused:
        load_settings()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: needs packages" in str(refused.value)


def test_the_headers_for_a_collector_are_read_as_opentelemetry_writes_them(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x-scope=a=b")
    settings = load_settings()
    assert settings.otlp_headers == {"authorization": "Bearer hunter2", "x-scope": "a=b"}
    assert "hunter2" not in repr(settings)
