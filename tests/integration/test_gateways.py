"""The gateway of docs/gateways.md, as a package that registers it."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from orderflow.contract import PaymentMethod
from orderflow.errors import EventSignatureWrong, InvalidSettings, NoEventsTaken, WebhooksNotSetUp
from orderflow.gateways import Approved, Charge, Declined, Refund, Refunded
from orderflow.gateways.opening import open_gateway, read_event
from orderflow.settings import Settings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "gateways.md"
SECRET = "hunter2"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    page = PAGE.read_text("utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [registered] = re.findall(r"```toml\n\[project\.entry-points\.(.*?)```", page, re.DOTALL)
    name, module = re.findall(r'(\w+) = "(\w+)"', registered)[0]
    (tmp_path / f"{module}.py").write_text(code)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[orderflow.gateways]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop(module, None)


@pytest.fixture
def settings(installed: None, gateway_server) -> Settings:
    assert installed is None
    return Settings(
        _env_file=None,
        payment_gateway="payexample",
        gateway_url=gateway_server.url,
        gateway_webhook_secret=SECRET,
    )


def charge(token: str) -> Charge:
    return Charge(str(uuid4()), Decimal("9.50"), "EUR", PaymentMethod.CARD, token)


async def test_a_registered_gateway_takes_the_money(settings, gateway_server):
    async with open_gateway(settings) as gateway:
        asked = charge("tok_approve")
        assert await gateway.find(asked) is None
        paid = await gateway.charge(asked)
        assert paid == Approved(gateway_server.charge(asked.key)["id"])
        assert await gateway.find(replace(asked, token=None)) == paid
        assert await gateway.charge(charge("tok_decline")) == Declined("card_declined")
        refund = Refund(str(uuid4()), asked.key, paid.transaction_id, Decimal("9.50"), "EUR")
        assert await gateway.find_refund(refund) is None
        back = await gateway.refund(refund)
        assert isinstance(back, Refunded)
        assert await gateway.find_refund(refund) == back


def test_its_events_are_checked_and_read(settings):
    body = json.dumps(
        {"id": "e1", "type": "paid", "key": "p1", "chargeId": "ch_1", "at": 1767225600}
    ).encode()
    at = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"x-pay-signature": f"{at},{signature}"}
    event = read_event("payexample", body, headers, settings)
    assert (event.id, event.key, event.paid) == ("e1", "p1", Approved("ch_1"))
    with pytest.raises(EventSignatureWrong):
        read_event("payexample", body + b" ", headers, settings)
    with pytest.raises(NoEventsTaken):
        read_event("stripe", body, headers, settings)
    without = settings.model_copy(update={"gateway_webhook_secret": None})
    with pytest.raises(WebhooksNotSetUp):
        read_event("payexample", body, headers, without)


def test_a_gateway_that_nobody_brought_is_refused_by_name():
    known = "PAYMENT_GATEWAY: must be one of sandbox, stripe"
    with pytest.raises(InvalidSettings, match=known):
        load_settings(payment_gateway="payexample")


def test_stripe_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("orderflow.setting_types.find_spec", lambda _name: None)
    with pytest.raises(InvalidSettings, match=r"pip install 'orderflow\[stripe\]'"):
        load_settings(payment_gateway="stripe")


def test_the_sandbox_tells_of_nothing():
    with pytest.raises(NoEventsTaken, match="takes no events of a gateway 'sandbox'"):
        read_event("sandbox", b"{}", {}, Settings(_env_file=None))
