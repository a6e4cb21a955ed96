"""Webhooks in the admin API; that each answer is in the reference is looked at for every one."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from tests.integration.api.test_admin import Admin
from tests.integration.receiver import receiving

from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.webhooks.courier import Courier
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import Targets
from orderflow.webhooks.transport import GuardedTransport

WEBHOOKS = "/admin/api/webhooks"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(_env_file=None, **settings.model_dump() | {"webhooks_allow_private": True})


@pytest.fixture
def admin(api: Any) -> Admin:
    return Admin(api)


async def test_an_endpoint_is_added_watched_steered_and_removed(
    admin: Admin, resources: Resources
) -> None:
    async with receiving() as receiver, GuardedTransport(Targets(allow_private=True)) as transport:
        added = await admin.post(
            WEBHOOKS, url=receiver.url, types=["order.cancelled"], description="ERP", reason="new"
        )
        assert added.status_code == 201
        endpoint, secret = added.json()["endpoint"], added.json()["secret"]
        at = added.headers["location"]
        assert (await admin.get(at)).json() == endpoint
        assert (await admin.get(WEBHOOKS)).json() == {"endpoints": [endpoint]}

        order = (await admin.post("/checkout", **BODY)).json()["orderId"]
        await admin.post(f"/admin/api/orders/{order}/cancel", reason="as asked")
        receiver.status, receiver.body = 500, b"no"
        assert await Courier(resources.db, transport).run_once() == 1
        assert receiver.got[0].verified(secret)["data"]["orderId"] == order

        [delivery] = (await admin.get(f"{at}/deliveries")).json()["deliveries"]
        assert (delivery["status"], delivery["messageId"]) == (
            "waiting",
            f"order_cancelled_{order}",
        )
        [attempt] = delivery["lastAttempts"]
        assert (attempt["statusCode"], attempt["answer"]) == (500, "no")
        assert (await admin.get(f"{at}/deliveries/{delivery['id']}")).json() == delivery
        of_status = {
            status: (await admin.get(f"{at}/deliveries", status=status)).json()["deliveries"]
            for status in ("waiting", "delivered", "given_up")
        }
        assert of_status == {"waiting": [delivery], "delivered": [], "given_up": []}
        older = await admin.get(f"{at}/deliveries", before=delivery["id"])
        assert older.json() == {"deliveries": []}

        resent = await admin.post(f"{at}/deliveries/{delivery['id']}/resend", reason="mended")
        assert (resent.status_code, resent.json()["status"]) == (202, "waiting")
        assert (await admin.post(f"{at}/resend")).json() == {"resent": 0}
        rotated = (await admin.post(f"{at}/rotate")).json()
        assert rotated["secret"] != secret
        off = (await admin.post(f"{at}/disable", reason="moves")).json()
        assert (off["enabled"], off["disabledBecause"]) == (False, "by ada: moves")
        assert (await admin.post(f"{at}/enable")).json()["enabled"] is True
        assert (await admin.post(f"{at}/remove")).json() == {"deliveries": 1}
        assert (await admin.get(at)).status_code == 404

    actions = (await admin.get("/admin/api/audit")).json()["actions"]
    assert [action["action"] for action in reversed(actions)] == [
        "add webhook",
        "cancel",
        "resend webhook",
        "resend webhooks",
        "rotate webhook secret",
        "disable webhook",
        "enable webhook",
        "remove webhook",
    ]
    assert {action["outcome"] for action in actions} == {"done"}
    for told in (json.dumps(actions), json.dumps(endpoint), json.dumps(off)):
        assert secret not in told
        assert rotated["secret"] not in told


BODY = {
    "items": [{"sku": "pot-glass", "quantity": 1}],
    "paymentMethod": "card",
    "paymentToken": "tok_approve",
    "contact": {"email": "ada@shop.example"},
}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"url": "ftp://x/", "types": ["order.shipped"]}, ("/url", "public-https-url")),
        ({"url": "", "types": ["order.shipped"]}, ("/url", "length-at-least 1")),
        ({"url": "https://x/", "types": []}, ("/types", "items-at-least 1")),
        (
            {"url": "https://x/", "types": ["order.made"]},
            (
                "/types/0",
                "one-of " + ", ".join(EventType),
            ),
        ),
        ({"types": ["order.shipped"]}, ("/url", "required")),
        ({"url": "https://x/", "types": ["order.shipped"], "secret": "x"}, ("/secret",)),
    ],
)
async def test_a_wrong_endpoint_is_refused_by_field_and_rule(
    api: Any, admin: Admin, body: dict[str, Any], fault: tuple[str, ...]
) -> None:
    refused = await admin.post(WEBHOOKS, **body)
    assert (refused.status_code, api.problem(refused)) == (422, "invalid-body")
    assert api.faults(refused)[0][: len(fault)] == fault
    assert (await admin.get(WEBHOOKS)).json() == {"endpoints": []}


async def test_what_is_not_there_is_told_so(api: Any, admin: Admin) -> None:
    for endpoint in (str(uuid4()), "none", "%00"):
        at = f"{WEBHOOKS}/{endpoint}"
        looks = [await admin.get(f"{at}{part}") for part in ("", "/deliveries", "/deliveries/1")]
        actions = ("rotate", "enable", "disable", "remove", "resend", "deliveries/1/resend")
        for answer in (*looks, *[await admin.post(f"{at}/{action}") for action in actions]):
            assert answer.status_code == 404
            assert api.problem(answer) == "webhook-endpoint-not-found"
    added = await admin.post(WEBHOOKS, url="http://127.0.0.1:9/", types=["order.shipped"])
    at = added.headers["location"]
    for delivery in ("1", "none", "9" * 30, "²"):
        answer = await admin.get(f"{at}/deliveries/{delivery}")
        assert (answer.status_code, api.problem(answer)) == (404, "webhook-delivery-not-found")
    assert (await admin.post(f"{at}/deliveries/1/resend")).status_code == 404
    wrong = await admin.get(f"{at}/deliveries", status="lost")
    assert (wrong.status_code, api.problem(wrong)) == (400, "invalid-query")


async def test_without_the_setting_only_public_addresses_are_taken(
    serve: Any, settings: Settings, resources: Resources
) -> None:
    assert resources
    closed = settings.model_copy(update={"webhooks_allow_private": False})
    async with serve(closed) as api:
        for url in ("http://127.0.0.1:8000/", "https://169.254.169.254/", "https://[::1]/"):
            refused = await Admin(api).post(WEBHOOKS, url=url, types=["order.shipped"])
            assert (refused.status_code, api.faults(refused)[0][1]) == (422, "public-https-url")


async def test_only_admins_see_them(api: Any) -> None:
    assert (await api.get(WEBHOOKS)).status_code == 403
    assert (await api.client.post(WEBHOOKS, json={})).status_code == 401
