"""Webhooks on the operators' page and on the command line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from tests.conftest import SECRET, process_environment
from tests.integration.cli import Run, run_command, shown
from tests.integration.conftest import PlaceOrder
from tests.integration.life import charge
from tests.integration.receiver import Receiver, receiving
from tests.integration.test_dashboard import Page, browse, text_of

from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.webhooks.courier import Courier
from orderflow.webhooks.deliveries import list_deliveries
from orderflow.webhooks.endpoints import list_endpoints
from orderflow.webhooks.targets import Targets
from orderflow.webhooks.transport import GuardedTransport


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(_env_file=None, **settings.model_dump() | {"webhooks_allow_private": True})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def admin(settings: Settings, resources: Resources) -> AsyncIterator[Page]:
    assert resources
    async with browse(settings) as page:
        assert (await page.sign_in()).status_code == 303
        yield page


async def deliver(resources: Resources) -> int:
    async with GuardedTransport(Targets(allow_private=True)) as transport:
        return await Courier(resources.db, transport).run_once()


def secret_in(text: str) -> str:
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/]{43}=", text.replace("&#43;", "+"))
    return secret


async def test_the_page_adds_shows_and_resends(
    admin: Page, resources: Resources, place: PlaceOrder, receiver: Receiver
) -> None:
    assert "Nobody is told of orders" in text_of(await admin.get("/admin/webhooks"))
    form = {"url": receiver.url, "description": "ERP", "order.confirmed": "yes", "reason": "new"}
    added = await admin.post("/admin/webhooks/add", form)
    assert added.status_code == 200
    secret = secret_in(text_of(added))
    [endpoint] = await list_endpoints(db=resources.db)
    assert endpoint.types == ["order.confirmed"]
    at = f"/admin/webhooks/{endpoint.id}"
    assert at in added.text

    receiver.status, receiver.body = 500, b"<b>no</b>"
    order = await place()
    await charge(resources, order)
    assert await deliver(resources) == 1
    assert receiver.got[0].verified(secret)
    listed = await admin.get("/admin/webhooks")
    assert receiver.url in text_of(listed)
    shown = await admin.get(at)
    assert "order.confirmed" in text_of(shown)
    assert "500 <b>no</b>" in text_of(shown)
    assert "<b>no</b>" not in shown.text
    for status, there in (("waiting", True), ("delivered", False), ("given_up", False)):
        tab = await admin.get(f"{at}?status={status}")
        assert ("order.confirmed" in tab.text.partition("<h2>Deliveries")[2]) == there
    [delivery] = await list_deliveries(endpoint.id, db=resources.db)
    one = f"{at}/deliveries/{delivery.id}"
    assert f"order_confirmed_{order.order_id}" in text_of(await admin.get(one))

    resent = await admin.post(f"{one}/resend", {"reason": "they mended it"})
    assert resent.headers["location"] == f"{one}?acted=1"
    told = text_of(await admin.get(resent.headers["location"]))
    assert "Resend webhook" in told
    receiver.status = 200
    assert await deliver(resources) == 1
    assert "delivered" in text_of(await admin.get(one))
    for page in (await admin.get("/admin/webhooks"), await admin.get(at), await admin.get(one)):
        assert secret not in page.text


async def test_the_page_rotates_disables_enables_and_removes(
    admin: Page, resources: Resources, receiver: Receiver
) -> None:
    form = {"url": receiver.url, "order.shipped": "yes", "reason": "new"}
    secret = secret_in(text_of(await admin.post("/admin/webhooks/add", form)))
    [endpoint] = await list_endpoints(db=resources.db)
    at = f"/admin/webhooks/{endpoint.id}"
    rotated = text_of(await admin.post(f"{at}/rotate", {"reason": "it leaked"}))
    assert secret_in(rotated) != secret
    assert "signs as well until" in rotated
    because = {"reason": "they move"}
    assert (await admin.post(f"{at}/disable", because)).status_code == 303
    assert "disabled by olga: they move" in text_of(await admin.get(at))
    assert (await admin.post(f"{at}/resend", because)).status_code == 303
    assert (await admin.post(f"{at}/enable", because)).status_code == 303
    assert "enabled" in text_of(await admin.get(at))
    removed = await admin.post(f"{at}/remove", because)
    assert removed.headers["location"] == "/admin/webhooks?acted=1"
    assert (await admin.get(at)).status_code == 404
    assert "Remove webhook" in text_of(await admin.get("/admin/webhooks?acted=1"))


async def test_the_form_says_what_is_wrong(admin: Page, resources: Resources) -> None:
    for fields, said in (
        ({"url": ""}, "URL must not be empty"),
        ({"url": "ftp://x/"}, "URL is refused: its scheme must be https or http"),
        ({"url": "http://127.0.0.1/"}, "order.confirmed or another one must be chosen"),
    ):
        types = {} if "127" in fields["url"] else {"order.shipped": "yes"}
        answer = await admin.post("/admin/webhooks/add", {**fields, **types, "reason": "new"})
        assert answer.status_code == 422
        assert said in text_of(answer)
    assert await list_endpoints(db=resources.db) == []


@pytest.fixture
def orderflow(settings: Settings, tmp_path: Path) -> Run:
    """Run `orderflow webhooks ARGS`, without a terminal."""
    environment = {"LOGNAME": "ada", "JWT_SECRET": SECRET}
    environment |= process_environment(settings) | {"WEBHOOKS_ALLOW_PRIVATE": "true"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return run_command("webhooks", *args, folder=tmp_path, environment=environment)

    return run


async def test_the_command_line_does_the_same(
    orderflow: Run, resources: Resources, place: PlaceOrder, receiver: Receiver
) -> None:
    added = shown(orderflow("add", receiver.url, "--event", "order.confirmed", "--json"))
    endpoint, secret = added["endpoint"]["id"], added["secret"]
    order = await place()
    await charge(resources, order)
    await deliver(resources)
    assert receiver.got[0].verified(secret)

    [delivery] = await list_deliveries(UUID(endpoint), db=resources.db)
    assert str(delivery.id) in orderflow("deliveries", endpoint).stdout
    full = orderflow("deliveries", endpoint, str(delivery.id)).stdout
    assert f"webhook-id order_confirmed_{order.order_id}" in full
    assert "delivered" in full
    resent = shown(orderflow("resend", endpoint, str(delivery.id), "--json"))
    assert resent["status"] == "waiting"
    rotated = orderflow("rotate", endpoint, "--reason", "it leaked").stdout
    assert secret_in(rotated) != secret
    assert receiver.url in rotated

    refused = orderflow("disable", endpoint)
    assert (refused.returncode, "say --yes" in refused.stderr) == (2, True)
    table = orderflow("list")
    assert f"{receiver.url}  confirmed  enabled" in table.stdout
    assert secret not in table.stdout
    assert "removed, with 1 deliveries" in orderflow("remove", endpoint, "--yes").stdout
    gone = orderflow("enable", endpoint)
    assert (gone.returncode, gone.stderr) == (1, f"There is no webhook endpoint '{endpoint}'.\n")
