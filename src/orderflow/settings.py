"""Settings: one frozen object, read from the environment at start and passed down.

Each field is a variable of the same name in capitals; `.env.example` explains every one. A file
`.env` in the current folder is read too, and the environment wins over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, unquote

from pydantic import DirectoryPath, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from orderflow.contract import Channel, JobName, Priorities
from orderflow.errors import InvalidSettings
from orderflow.queue_names import QueueNames, shares
from orderflow.redis_servers import RedisServers
from orderflow.setting_types import (
    ApiKey,
    Channels,
    GatewayName,
    Milliseconds,
    OtlpHeaders,
    Port,
    PostgresUrl,
    PriorityNumber,
    Rate,
    RateLimit,
    RedisUrl,
    Sentinels,
    SigningSecret,
    TracesUrl,
)


class Settings(BaseSettings):
    """Everything that may differ between two installations."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # API
    host: str = "127.0.0.1"
    port: Port = 8000
    web_concurrency: int = Field(default=1, ge=1, le=256)
    max_body_bytes: int = Field(default=65_536, ge=1_024, le=1_048_576)
    max_connections: int = Field(default=20_000, ge=1, le=1_000_000)
    max_streams: int = Field(default=10_000, ge=1, le=1_000_000)
    request_timeout_s: int = Field(default=10, ge=1, le=3_600)
    keep_alive_s: int = Field(default=5, ge=1, le=3_600)
    checkout_rate_per_user: Rate | None = None
    checkout_rate_per_address: Rate | None = None
    forwarded_allow_ips: str | None = None
    checkouts_in_flight: int = Field(default=1_000, ge=1, le=100_000)
    shed_after_s: int | None = Field(default=None, ge=1, le=86_400)
    idempotency_key_required: bool = False
    idempotency_ttl_s: int = Field(default=86_400, ge=60, le=31_536_000)

    # On the machine of who develops with it: /demo, which is nobody's shop
    development: bool = False

    # Who may call it: one of the two, HS256 by a secret or public keys from a JWKS
    jwt_secret: SigningSecret | None = None
    jwt_jwks: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None

    # PostgreSQL
    database_url: PostgresUrl = PostgresUrl("postgresql://orderflow@127.0.0.1:5432/orderflow")
    # Two: the reconciler holds its lock on one, and works on another.
    database_pool_size: int = Field(default=10, ge=2, le=1_000)
    database_timeout_ms: Milliseconds = 1_500
    database_pooler: Literal["transaction"] | None = None
    database_replica_url: PostgresUrl | None = None
    database_replica_lag_ms: Milliseconds = 250

    # Redis: a URL, or its parts
    redis_url: RedisUrl | None = None
    redis_host: str = "127.0.0.1"
    redis_port: Port = 6379
    redis_db: int = Field(default=0, ge=0)
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_timeout_ms: Milliseconds = 250
    # Where several are one Redis: sentinels that know the master, or the nodes of a cluster
    redis_sentinels: Sentinels = ()
    redis_sentinel_master: str | None = None
    redis_sentinel_username: str | None = None
    redis_sentinel_password: SecretStr | None = None
    redis_cluster: bool = False

    # Queues
    queue_prefix: str = Field(default="bull", min_length=1, max_length=64, pattern=r"^[^\s:]+$")
    queue_shards: int = Field(default=1, ge=1, le=64)
    queue_depth_limit: int = Field(default=100_000, ge=2)
    priority_high: PriorityNumber = 1
    priority_medium: PriorityNumber = 10
    priority_low: PriorityNumber = 20

    # Workers
    worker_lock_ms: Milliseconds = 3_000
    worker_stalled_interval_ms: Milliseconds = 1_000
    worker_poison_deaths: int = Field(default=3, ge=1, le=100)
    worker_hang_ms: Milliseconds = 10_000
    job_timeout_ms: Milliseconds = 60_000
    shutdown_grace_ms: int = Field(default=0, ge=0, le=600_000)
    drain_timeout_ms: Milliseconds = 20_000
    rate_limits: Mapping[str, RateLimit] = Field(default_factory=dict)
    reconcile_interval_ms: Milliseconds = 15_000
    reconcile_grace_ms: Milliseconds = 10_000
    books_interval_s: int = Field(default=86_400, ge=60, le=604_800)
    order_ttl_s: int | None = Field(default=None, ge=1)
    failure_retention_s: int = Field(default=2_592_000, ge=60, le=315_360_000)

    # Payment gateway
    payment_gateway: GatewayName = "sandbox"
    gateway_url: str | None = Field(default=None, pattern=r"^https?://[^\s/]\S*$")
    gateway_api_key: ApiKey | None = None
    gateway_webhook_secret: ApiKey | None = None
    gateway_timeout_ms: Milliseconds = 10_000
    gateway_breaker_failures: int = Field(default=10, ge=1, le=1_000)
    gateway_breaker_rest_ms: Milliseconds = 1_000
    default_currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$")

    # Mail and SMS
    smtp_host: str = "127.0.0.1"
    smtp_port: Port = 8025
    smtp_security: Literal["none", "starttls", "tls"] = "none"
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_timeout_ms: Milliseconds = 8_000
    smtp_ca_file: FilePath | None = None
    smtp_connections: int = Field(default=10, ge=1, le=1_000)
    mail_from: str = Field(default="Shop <orders@shop.example>", pattern=r"^[^\r\n]*@[^\r\n]*$")
    mail_rate: Rate | None = None
    mail_file: Path | None = None
    twilio_account_sid: str | None = Field(default=None, pattern=r"^AC[0-9a-fA-F]{32}$")
    twilio_auth_token: ApiKey | None = None
    twilio_from: str | None = Field(default=None, pattern=r"^(\+[1-9][0-9]{6,14}|[ -~]{1,34})$")
    twilio_url: str = Field(default="https://api.twilio.com", pattern=r"^https?://[^\s/]\S*$")
    twilio_timeout_ms: Milliseconds = 8_000
    sms_rate: Rate | None = None
    sms_file: Path | None = None
    notify_order_confirmation: Channels = tuple(Channel)
    notify_payment_failed: Channels = tuple(Channel)
    notify_order_shipped: Channels = tuple(Channel)
    notify_order_delivered: Channels = tuple(Channel)
    notify_order_cancelled: Channels = tuple(Channel)
    notify_order_refunded: Channels = tuple(Channel)
    templates_dir: DirectoryPath | None = None
    default_language: str = Field(default="en", pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")

    # Webhooks
    webhooks_allow_private: bool = False

    # Logs and metrics
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    exporter_host: str = "127.0.0.1"
    exporter_port: Port = 9100
    metrics_host: str = "127.0.0.1"
    metrics_port: Port | None = None

    # Traces, under OpenTelemetry's own names; what else its SDK knows, it reads itself
    otel_exporter_otlp_endpoint: TracesUrl | None = None
    otel_exporter_otlp_headers: OtlpHeaders | None = None
    otel_service_name: str | None = None
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        if self.jwt_secret is not None and self.jwt_jwks is not None:
            raise ValueError("JWT_SECRET and JWT_JWKS exclude each other: set one")
        return self

    @model_validator(mode="after")
    def _one_way_to_find_redis(self) -> Self:
        if self.redis_sentinels and self.redis_cluster:
            raise ValueError("REDIS_SENTINELS and REDIS_CLUSTER exclude each other: set one")
        if bool(self.redis_sentinels) != bool(self.redis_sentinel_master):
            raise ValueError("REDIS_SENTINELS and REDIS_SENTINEL_MASTER must be set together")
        if self.redis_sentinel_username and not self.redis_sentinel_password:
            raise ValueError("REDIS_SENTINEL_USERNAME needs a REDIS_SENTINEL_PASSWORD")
        self.redis_servers.check()
        return self

    @model_validator(mode="after")
    def _a_queue_is_in_one_place(self) -> Self:
        self.queue_names.check(cluster=self.redis_cluster)
        return self

    @model_validator(mode="after")
    def _a_limit_can_be_divided(self) -> Self:
        for queue, limit in self.rate_limits.items():
            if limit.max < len(self.queue_names.shards_of(queue)):
                raise ValueError(f"RATE_LIMITS: {queue}: max must be QUEUE_SHARDS or more")
        return self

    @model_validator(mode="after")
    def _priorities_in_order(self) -> Self:
        if len({self.priority_high, self.priority_medium, self.priority_low}) < 3:
            raise ValueError("PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW must differ")
        return self

    @model_validator(mode="after")
    def _a_hang_outlasts_the_lock(self) -> Self:
        if self.worker_hang_ms <= self.worker_lock_ms:
            raise ValueError("WORKER_HANG_MS must be greater than WORKER_LOCK_MS")
        return self

    @model_validator(mode="after")
    def _one_way_to_send_sms(self) -> Self:
        twilio = (self.twilio_account_sid, self.twilio_auth_token, self.twilio_from)
        if any(twilio) and not all(twilio):
            raise ValueError(
                "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_FROM must be set together"
            )
        if any(twilio) and self.sms_file is not None:
            raise ValueError("SMS_FILE and TWILIO_ACCOUNT_SID exclude each other: set one")
        return self

    @model_validator(mode="after")
    def _a_name_to_sign_in_with(self) -> Self:
        if (self.smtp_username is None) != (self.smtp_password is None):
            raise ValueError("SMTP_USERNAME and SMTP_PASSWORD must be set together")
        return self

    @model_validator(mode="after")
    def _development_moves_no_money(self) -> Self:
        if self.development and self.payment_gateway != "sandbox":
            raise ValueError("DEVELOPMENT: only with PAYMENT_GATEWAY=sandbox, which takes no money")
        return self

    @property
    def queue_names(self) -> QueueNames:
        """How the queues and their keys are called."""
        return QueueNames(self.queue_prefix, self.queue_shards)

    def rate_limit_of(self, queue: str) -> RateLimit | None:
        """Return the limit of a queue, which is a shard's share of it."""
        for name, limit in self.rate_limits.items():
            shards = self.queue_names.shards_of(name)
            if queue in shards:
                share = shares(limit.max, len(shards))[shards.index(queue)]
                return RateLimit(max=share, duration=limit.duration)
        return None

    @property
    def priorities(self) -> Priorities:
        """The numbers of the named priorities."""
        return Priorities(self.priority_high, self.priority_medium, self.priority_low)

    def channels_of(self, kind: JobName) -> tuple[Channel, ...]:
        """Return the ways by which customers are told of what this kind of message is about."""
        channels: tuple[Channel, ...] = getattr(self, f"notify_{kind.value.replace('-', '_')}")
        return channels

    @property
    def claim_s(self) -> float:
        """How long a message stays a worker's own: longer than a sender takes, or gives up after.

        A quarter more than the longest time-out, and a second for a turn that is waited for.
        """
        return max(self.smtp_timeout_ms, self.twilio_timeout_ms) / 1000 * 1.25 + 1

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where a program answers scrapes, or None where it does not."""
        return None if self.metrics_port is None else (self.metrics_host, self.metrics_port)

    @property
    def streams_at_most(self) -> int:
        """How many streams a process holds: never so many that no connection is left to others."""
        return min(self.max_streams, self.max_connections // 2)

    @property
    def database_dsn(self) -> str:
        """The URL of PostgreSQL. It may hold a password: never log it."""
        return self.database_url.get_secret_value()

    @property
    def database_is_pooled(self) -> bool:
        """Whether a pooler is between us and PostgreSQL, with another session each transaction."""
        return self.database_pooler is not None

    @property
    def database_replica_dsn(self) -> str | None:
        """The URL of a replica, if there is one. It may hold a password: never log it."""
        url = self.database_replica_url
        return None if url is None else url.get_secret_value()

    @property
    def redis_dsn(self) -> str:
        """The URL of Redis, whichever way it was set. It may hold a password: never log it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        login = ""
        if self.redis_password is not None:
            password = quote(self.redis_password.get_secret_value(), safe="")
            login = f"{quote(self.redis_username or '', safe='')}:{password}@"
        return f"redis://{login}{self.redis_host}:{self.redis_port}/{self.redis_db}"

    @property
    def redis_servers(self) -> RedisServers:
        """Where Redis is, whichever way it was set."""
        password = self.redis_sentinel_password
        return RedisServers(
            self.redis_dsn,
            self.redis_sentinels,
            self.redis_sentinel_master or "",
            self.redis_sentinel_username,
            password.get_secret_value() if password else None,
            cluster=self.redis_cluster,
        )

    @property
    def is_traced(self) -> bool:
        """Whether spans are made and sent."""
        return self.otel_exporter_otlp_endpoint is not None

    @property
    def otlp_headers(self) -> dict[str, str]:
        """What goes to the collector with the spans. It may hold a password: never log it."""
        if self.otel_exporter_otlp_headers is None:
            return {}
        pairs = self.otel_exporter_otlp_headers.get_secret_value().split(",")
        named = (pair.partition("=") for pair in pairs)
        return {name.strip(): unquote(value.strip()) for name, _, value in named}


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides`, as from a command line, win over the environment.

    Raises InvalidSettings that names each wrong variable and its rule, and never its value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidSettings(faults=_faults(error)) from None
    except SettingsError as error:
        # Its message names the field, and it is raised for one whose text is no JSON.
        named = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "?")
        raise InvalidSettings(faults=f"{named.upper()}: must be JSON") from None


def _faults(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        rule = fault["msg"].removeprefix("Value error, ")
        variable, *inside = map(str, fault["loc"] or ("",))
        place = [variable.upper(), ".".join(inside)]
        lines.append(": ".join(part for part in (*place, rule) if part))
    return "; ".join(lines)
