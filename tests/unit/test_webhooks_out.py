"""Webhooks that go out: signatures, retries, where they may go, and that nothing is left untold."""

from __future__ import annotations

import re
import time
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from orderflow.db.pool import QUERIES
from orderflow.errors import WebhookUrlRefused
from orderflow.webhooks.messages import EventType, message_id
from orderflow.webhooks.retries import DELAYS_S, next_try_s
from orderflow.webhooks.signing import fingerprint, new_secret, signed_headers
from orderflow.webhooks.targets import Targets, host_of, is_public

ORDER, REFUND = UUID(int=1), UUID(int=2)


def test_the_official_library_takes_a_signature():
    secret, body = new_secret(), b'{"type":"order.confirmed"}'
    headers = signed_headers("order_confirmed_1", int(time.time()), body, [secret])
    assert Webhook(secret).verify(body, headers) == {"type": "order.confirmed"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers | {"webhook-id": "order_confirmed_2"})


def test_a_signature_is_what_the_specification_has():
    # Of the examples of Standard Webhooks.
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_replaced_either_will_do():
    old, new, body = new_secret(), new_secret(), b"{}"
    headers = signed_headers("id", int(time.time()), body, [new, old])
    assert [Webhook(secret).verify(body, headers) for secret in (old, new)] == [{}, {}]


def test_a_secret_has_32_bytes_and_is_not_known_by_its_fingerprint():
    secrets = {new_secret() for _ in range(10)}
    assert len(secrets) == 10
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret) for secret in secrets)
    assert all(re.fullmatch("[0-9a-f]{8}", fingerprint(secret)) for secret in secrets)


def test_an_id_says_what_it_tells_of():
    assert message_id(EventType.CONFIRMED, ORDER, None) == f"order_confirmed_{ORDER}"
    assert message_id(EventType.REFUNDED, ORDER, REFUND) == f"order_refunded_{REFUND}"


def test_retries_come_more_and_more_rarely_for_three_days_and_end():
    waits = [next_try_s(failed) for failed in range(1, len(DELAYS_S) + 1)]
    for wait, delay in zip(waits, DELAYS_S, strict=True):
        assert 0.9 * delay <= wait <= 1.1 * delay
    assert next_try_s(len(DELAYS_S) + 1) is None
    assert 3 * 86_400 < sum(DELAYS_S) < 4 * 86_400


def test_an_endpoint_may_ask_for_time_but_not_for_ever():
    assert next_try_s(1, 120.0) == 120.0
    assert next_try_s(1, 1e9) == 86_400
    assert next_try_s(2, 1.0) > 200
    assert next_try_s(len(DELAYS_S) + 1, 120.0) is None


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2001:db8::1", "2002:7f00:1::", "2001:0:53aa:64c::1", "64:ff9b:1::1", "::7f00:1"),
    ],
)
def test_no_address_of_ones_own_network_is_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_other_addresses_are(address):
    assert is_public(address)


async def resolve(host: str, _port: int) -> list[str]:
    if host == "nowhere.example":
        raise OSError
    return {"both.example": ["93.184.215.14", "10.0.0.7"], "none.example": []}.get(
        host, ["93.184.215.14"]
    )


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://hooks.example/", "its scheme must be https"),
        ("ftp://hooks.example/", "its scheme must be https"),
        ("hooks.example", "its scheme must be https"),
        ("https://", "it names no host"),
        ("https://ada:hunter2@hooks.example/", "it must have no user, password or fragment"),
        ("https://hooks.example/#here", "it must have no user, password or fragment"),
        ("https://hooks.example:22/", "its port must be 443 or 8443"),
        ("https://hooks.example:0/", "its port must be 443 or 8443"),
        ("https://hooks.example:99999/", "its port must be 443 or 8443"),
        ("https://hooks.example/\n", "it is not a URL that can be read"),
        ("https://hooks.example/" + "x" * 2_000, "a URL may have 2,000 characters at most"),
        ("https://both.example/", "its address 10.0.0.7 is not a public one"),
        ("https://nowhere.example/", "its address cannot be found"),
        ("https://none.example/", "it has no address"),
    ],
)
async def test_where_no_webhook_goes(url, rule):
    with pytest.raises(WebhookUrlRefused) as refused:
        await Targets(resolve=resolve).check(url)
    assert rule in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_an_address_in_a_url_is_looked_at_as_well():
    for host in ("127.0.0.1", "[::1]", "2130706433", "0x7f.1", "169.254.169.254"):
        with pytest.raises(WebhookUrlRefused):
            await Targets().check(f"https://{host}/")


async def test_for_development_everything_is_allowed_that_can_be_called():
    targets = Targets(allow_private=True)
    assert str(await targets.check("http://127.0.0.1:8080/hooks")) == "http://127.0.0.1:8080/hooks"
    with pytest.raises(WebhookUrlRefused):
        await targets.check("file:///etc/passwd")


async def test_other_urls_are_taken():
    targets = Targets(resolve=resolve)
    for url in ("https://hooks.example/orders?x=1", "https://hooks.example:8443/"):
        assert str(await targets.check(url)) == url
    assert host_of(await targets.check("https://ü.example/")) == "xn--tda.example"


def test_every_statement_that_brings_an_order_further_tells_of_it():
    """An order is changed by these statements alone, so nothing is left untold."""
    changing = {
        name
        for name, statement in QUERIES.items()
        if re.search(r"UPDATE orders( \w+)?\s+SET status = (?!'processing')", statement)
    }
    telling = {name for name, text in QUERIES.items() if "INTO webhook_deliveries" in text}
    assert changing == {"settle_paid", "settle_declined", "cancel_order", "advance_order"}
    assert telling == changing | {"settle_refunded"}
