"""Whether anybody can use the operators' page: on a phone, in the dark, with a screen reader.

With SCREENSHOTS=docs/images it draws the pictures of docs/admin.md anew.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, Page, expect
from redis import Redis
from tests.conftest import wait_until
from tests.e2e.browser import Operator, open_browser, window
from tests.e2e.conftest import ShopProcesses

from orderflow.operations.audit import Actor
from orderflow.resources import Resources
from orderflow.settings import Settings
from orderflow.webhooks.endpoints import add_endpoint
from orderflow.webhooks.messages import EventType
from orderflow.webhooks.targets import Targets

QUEUE = "/admin/queues/payment-processing"
PICTURES = os.environ.get("SCREENSHOTS")


def open_for_an_hour(redis: Redis, settings: Settings) -> None:
    """Give the queues the counters of a shop that was open for an hour."""
    seconds, _ = redis.time()
    for queue, busy in (("payment-processing", 90), ("notifications", 85)):
        for end, share in (("completed", 1.0), ("failed", 0.02)):
            key = f"{settings.queue_prefix}:{queue}:metrics:{end}"
            minutes = [
                round(busy * share * (1 + math.sin(minute / 9) / 2 + math.sin(minute * 5) / 6))
                for minute in range(60)
            ]
            redis.rpush(f"{key}:data", *minutes)
            total = sum(minutes)
            redis.hset(key, mapping={"count": total, "prevCount": total, "prevTS": seconds * 1_000})


async def run_into_trouble(shop: ShopProcesses, resources: Resources) -> Mapping[str, str]:
    """Have orders paid and declined, and jobs failed and delayed; return what pages are about."""
    # The shop's workers take no such address, so that there is something to see.
    hook = await add_endpoint(
        "http://127.0.0.1:9/a/path/that/is/long/enough/to/need/more/than/a/phone/has?and=a-query",
        list(EventType),
        "stock and invoices",
        Actor("olga", "cli"),
        db=resources.db,
        targets=Targets(allow_private=True),
    )
    receipts = [shop.checkout() for _ in range(12)]
    declined = shop.checkout(paymentToken="tok_decline")
    queue = resources.queues.queue("payment-processing")
    data = {"paymentId": "8", "orderId": "9", "paymentData": {"method": "gold", "token": "tok_x"}}
    for number in range(4):
        await queue.add("process-payment", data, {"jobId": f"import-{number}", "attempts": 1})
    await queue.add("process-payment", data, {"jobId": "later", "delay": 3_600_000})
    shop.wait_for(receipts[-1]["orderId"], "confirmed")
    shop.wait_for(declined["orderId"], "cancelled")
    return {"order": declined["orderId"], "job": "import-0", "hook": str(hook.endpoint.id)}


@pytest.fixture
async def names(
    shop: ShopProcesses, resources: Resources, redis: Redis, settings: Settings
) -> Mapping[str, str]:
    open_for_an_hour(redis, settings)
    names = await run_into_trouble(shop, resources)
    failed = f"{settings.queue_prefix}:payment-processing:failed"
    wait_until(lambda: redis.zcard(failed) >= 4, "failed jobs")
    return names


async def test_anybody_can_use_every_page(shop: ShopProcesses, names: Mapping[str, str]):
    faults: list[str] = []
    async with open_browser() as browser:
        if PICTURES:
            await draw(browser, shop, names, Path(PICTURES))
        for width, theme in ((360, "dark"), (1280, "light")):
            async with window(browser, shop, width=width, color_scheme=theme) as operator:
                faults += await look_at_all(operator, names)
    assert faults == []


async def look_at_all(operator: Operator, names: Mapping[str, str]) -> list[str]:
    """Return what keeps people from using a page, or is cut off in it."""
    await operator.open("/admin")
    faults = await check(operator, "Sign in")
    await operator.sign_in("bob", admin=False)
    faults += await check(operator, "Not an admin")
    await operator.open("/admin/login")
    await operator.sign_in()
    job = f"{QUEUE}/job?id={names['job']}"
    for path, title in (
        ("/admin", "Overview"),
        (f"{QUEUE}?state=failed", "payment-processing"),
        (f"{QUEUE}/clean", "Clean payment-processing"),
        (job, "process-payment import-0"),
        (job.replace("/job", "/job/edit"), "Edit process-payment and run it again"),
        (f"/admin/orders/{names['order']}", f"Order {names['order']}"),
        ("/admin/queues/nope", "There is no such queue"),
        ("/admin/webhooks", "Webhooks"),
        ("/admin/webhooks/add", "Add a webhook endpoint"),
        (f"/admin/webhooks/{names['hook']}", "Webhook endpoint"),
        (f"/admin/webhooks/{names['hook']}/deliveries/1", "Delivery 1"),
        (f"/admin/webhooks/{names['hook']}/disable", "Disable the endpoint"),
        ("/admin/failures", "Failures"),
    ):
        await operator.open(path)
        faults += await check(operator, title)
    await operator.page.get_by_role("link", name="InvalidPayload").click()
    faults += await check(operator, "InvalidPayload")
    await operator.do("Retry the group…", "Retry 4 jobs", "see whether it was a passing thing")
    faults += await check(operator, "Retry of a group")
    await operator.open("/admin/audit")
    faults += await check(operator, "Audit")
    await operator.search("user-1")
    faults += await check(operator, "Search")
    return faults + operator.complaints


async def check(operator: Operator, title: str) -> list[str]:
    await expect(operator.page).to_have_title(f"{title} · orderflow")
    faults = await operator.barriers()
    wider = await operator.overflow()
    if wider:
        faults.append(f"it is {wider} px wider than its window")
    return [f"{title}: {fault}" for fault in faults]


async def draw(
    browser: Browser, shop: ShopProcesses, names: Mapping[str, str], folder: Path
) -> None:
    pictures = (
        ("admin-overview-light", "/admin", 1280, "light"),
        ("admin-overview-dark", "/admin", 1280, "dark"),
        ("admin-order-light", f"/admin/orders/{names['order']}", 1280, "light"),
        ("admin-job-dark", f"{QUEUE}/job?id={names['job']}", 1280, "dark"),
        ("admin-phone-light", f"{QUEUE}?state=failed", 360, "light"),
        ("admin-phone-dark", "/admin", 360, "dark"),
    )
    for name, path, width, theme in pictures:
        async with window(browser, shop, width=width, color_scheme=theme) as operator:
            await operator.open(path)
            await operator.sign_in()
            await operator.page.get_by_text("Live", exact=True).wait_for()
            await save(operator.page, folder / f"{name}.png")


async def save(page: Page, file: Path) -> None:
    """Keep a picture of the page in few colours, which is a third of its bytes."""
    picture = Image.open(io.BytesIO(await page.screenshot()))
    # This way of choosing keeps a colour that is rare, as that of what failed.
    picture.convert("RGB").quantize(192, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
