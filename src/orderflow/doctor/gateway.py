"""What the doctor looks at of the gateway: the settings that it needs. It is asked nothing."""

from __future__ import annotations

from collections.abc import Iterator

from orderflow.doctor.findings import Finding, Findings, fail, ok, warn
from orderflow.settings import Settings

_CHECK = "gateway-settings"


def examine_gateway(settings: Settings) -> Findings:
    """Say what the gateway that takes the money lacks."""
    name = settings.payment_gateway
    findings = list(_stripe(settings)) if name == "stripe" else []
    said = f"Payments go to {name}" + (", which takes no money" if name == "sandbox" else "")
    return findings or [ok(_CHECK, said)]


def _stripe(settings: Settings) -> Iterator[Finding]:
    key = settings.gateway_api_key
    if key is None:
        yield fail(
            _CHECK,
            "GATEWAY_API_KEY is not set, so no payment is made: all of them wait",
            "Set it for the workers, to a secret key of your Stripe account",
        )
    elif not key.get_secret_value().startswith(("sk_", "rk_")):
        yield fail(
            _CHECK,
            "GATEWAY_API_KEY is no secret key of Stripe",
            "Set it to one that begins with sk_ or rk_; pk_ is the key of the browser",
        )
    elif key.get_secret_value().startswith(("sk_test_", "rk_test_")):
        yield warn(
            _CHECK,
            "GATEWAY_API_KEY is a key of Stripe's test mode: no money is taken",
            "Set it to one that begins with sk_live_ or rk_live_ when the shop opens",
        )
    if settings.gateway_webhook_secret is None:
        yield fail(
            _CHECK,
            "GATEWAY_WEBHOOK_SECRET is not set, so no event of Stripe is taken: orders whose "
            "customers had to act are confirmed minutes late",
            "Set it for the API, to the signing secret of the endpoint /webhooks/stripe",
        )
    if settings.order_ttl_s is None:
        yield warn(
            _CHECK,
            "ORDER_TTL_S is not set: where a customer never acts, the order waits for ever, and "
            "holds its stock",
            "Set it to the time that customers have to pay, as 3600",
        )
