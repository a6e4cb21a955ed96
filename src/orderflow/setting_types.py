"""The types of the settings: how each kind of value is read, and by which rule it is refused."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Secret,
    SecretStr,
    StringConstraints,
)
from pydantic_settings import NoDecode

from orderflow.contract import MAX_PRIORITY, Channel
from orderflow.redis_servers import Address, read_addresses

Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
PriorityNumber = Annotated[int, Field(ge=1, le=MAX_PRIORITY)]

#: Host and port; PostgreSQL may have several.
_HOST = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")


def _readable(url: str) -> str:
    """Refuse what a client would take apart elsewhere than was meant.

    It would show a part of the password, as a port that is no number or a host that is not there.
    """
    user, _, hosts = re.split("[/?]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")
    if re.search(r"[@\[\]]", user) or "#" in url or not all(map(_HOST.fullmatch, hosts.split(","))):
        raise ValueError(
            "is not a URL that can be read: percent-encode what is no letter or digit in its user "
            "and password"
        )
    return url


PostgresUrl = Secret[
    Annotated[str, StringConstraints(pattern=r"^postgres(ql)?://.+"), AfterValidator(_readable)]
]
RedisUrl = Secret[
    Annotated[str, StringConstraints(pattern=r"^(rediss?|unix)://.+"), AfterValidator(_readable)]
]


def _parse_sentinels(text: object) -> object:
    return read_addresses(text, 26379) if isinstance(text, str) else text


Sentinels = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_parse_sentinels)]


def _fit_for_a_header(secret: SecretStr) -> SecretStr:
    # The client that refuses to send a line break shows what it was given.
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("must be printable ASCII, without spaces and line breaks")
    return secret


ApiKey = Annotated[SecretStr, AfterValidator(_fit_for_a_header)]


#: Who packages a gateway registers it in this group of entry points, under its name.
GATEWAY_GROUP = "orderflow.gateways"
OUR_GATEWAYS = ("sandbox", "stripe")


def _can_take_money(name: str) -> str:
    known = sorted({*OUR_GATEWAYS, *entry_points(group=GATEWAY_GROUP).names})
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    if name == "stripe" and find_spec("stripe") is None:
        raise ValueError("needs a package that is missing: pip install 'orderflow[stripe]'")
    return name


GatewayName = Annotated[str, AfterValidator(_can_take_money)]


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret) < 32:
        raise ValueError("must have 32 characters or more")
    return secret


SigningSecret = Annotated[SecretStr, AfterValidator(_long_enough)]


class RequestRate(NamedTuple):
    """So many requests in so many seconds."""

    max: int
    seconds: int


def _parse_rate(text: object) -> object:
    if isinstance(text, RequestRate):
        return text
    parts = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", str(text))
    if parts is None:
        raise ValueError("must be MAX/SECONDS, as 30/60")
    return RequestRate(int(parts[1]), int(parts[2]))


Rate = Annotated[RequestRate, BeforeValidator(_parse_rate)]


def _parse_channels(text: object) -> object:
    if not isinstance(text, str):
        return text
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    if not set(names) <= set(Channel):
        raise ValueError("must be email, sms, both with a comma between them, or none")
    return tuple(channel for channel in Channel if channel in names)


#: The ways by which customers are told of an event.
Channels = Annotated[tuple[Channel, ...], NoDecode, BeforeValidator(_parse_channels)]


def _can_be_sent(url: str) -> str:
    try:
        exporter = find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError:
        exporter = None
    if exporter is None:
        raise ValueError("needs packages that are missing: pip install 'orderflow[otel]'")
    return url


TracesUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s/]\S*$"), AfterValidator(_can_be_sent)
]
OtlpHeaders = Secret[
    Annotated[str, StringConstraints(pattern=r"^[^\s=,]+=[^,]*(,\s*[^\s=,]+=[^,]*)*$")]
]


class RateLimit(BaseModel):
    """At most `max` jobs start in `duration` milliseconds, over all workers of a queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max: int = Field(ge=1)
    duration: Milliseconds
