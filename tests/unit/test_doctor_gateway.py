"""What the doctor says of the settings of a gateway."""

from __future__ import annotations

import pytest

from orderflow.doctor import Severity, worst
from orderflow.doctor.gateway import examine_gateway
from orderflow.settings import Settings

COMPLETE = {
    "payment_gateway": "stripe",
    "gateway_api_key": "sk_live_hunter2",
    "gateway_webhook_secret": "whsec_hunter2",
    "order_ttl_s": 3_600,
}


def test_a_gateway_that_lacks_nothing_is_named():
    [finding] = examine_gateway(Settings(_env_file=None, **COMPLETE))
    assert (finding.severity, finding.message) == (Severity.OK, "Payments go to stripe")


def test_the_sandbox_takes_no_money():
    [finding] = examine_gateway(Settings(_env_file=None))
    assert finding.message == "Payments go to sandbox, which takes no money"


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({"gateway_api_key": None}, Severity.ERROR, "GATEWAY_API_KEY is not set"),
        ({"gateway_api_key": "pk_live_hunter2"}, Severity.ERROR, "no secret key of Stripe"),
        ({"gateway_api_key": "rk_test_hunter2"}, Severity.WARNING, "test mode"),
        ({"gateway_webhook_secret": None}, Severity.ERROR, "GATEWAY_WEBHOOK_SECRET is not set"),
        ({"order_ttl_s": None}, Severity.WARNING, "ORDER_TTL_S is not set"),
    ],
    ids=["no key", "browser's key", "test key", "no signing secret", "no time limit"],
)
def test_what_is_missing_is_told_with_what_to_do(changes, severity, said):
    findings = examine_gateway(Settings(_env_file=None, **COMPLETE | changes))
    [finding] = findings
    assert worst(findings) is severity
    assert said in finding.message
    assert finding.fix
    assert "hunter2" not in repr(findings)
