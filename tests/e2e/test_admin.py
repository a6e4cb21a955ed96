"""The operators' page in a real browser, on a running shop: each action, and what is live."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from playwright.async_api import Browser, expect
from redis import Redis
from tests.conftest import SECRET, wait_until
from tests.e2e.browser import Operator, open_browser, window
from tests.e2e.conftest import ShopProcesses

from orderflow.resources import Resources
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

QUEUE = "/admin/queues/payment-processing"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as opened:
        yield opened


@pytest.fixture
async def olga(browser: Browser, closed_shop: ShopProcesses) -> AsyncIterator[Operator]:
    """An admin who has signed in, in a shop of which only the API runs."""
    closed_shop.start("api")
    async with window(browser, closed_shop) as operator:
        await operator.open("/admin")
        await operator.sign_in()
        await operator.sees("Overview")
        yield operator
        assert operator.complaints == []


@pytest.fixture
def keys(settings: Settings) -> str:
    """What the keys of the payment queue begin with."""
    return f"{settings.queue_prefix}:payment-processing"


async def add(resources: Resources, job_id: str, **opts: Any) -> None:
    """Add a payment job that cannot be done, since its data lack a field."""
    data = {"paymentId": job_id, "paymentData": {"method": "card", "amount": 5, "token": "tok_x"}}
    queue = resources.queues.queue("payment-processing")
    await queue.add("process-payment", data, {"jobId": job_id, "attempts": 1, **opts})


def audit(rows: list[asyncpg.Record]) -> list[tuple[str, str, str, str]]:
    return [(row["actor"], row["action"], row["reason"], row["outcome"]) for row in rows]


_ENDED = "SELECT actor, action, reason, outcome FROM audit_log WHERE begun IS NOT NULL ORDER BY id"


async def test_signing_in_and_out(browser: Browser, closed_shop: ShopProcesses):
    closed_shop.start("api")
    async with window(browser, closed_shop) as operator:
        page = operator.page
        await operator.open(f"{QUEUE}?state=failed")
        await expect(page).to_have_title("Sign in · orderflow")
        await operator.sign_in("bob", admin=False)
        await operator.sees("You are bob")
        await page.get_by_role("button", name="Sign in as somebody else").click()
        await operator.open(f"{QUEUE}?state=failed")
        await operator.sign_in()
        await expect(page).to_have_url(f"{closed_shop.url}{QUEUE}?state=failed")

        [cookie] = [c for c in await page.context.cookies() if c["name"] == "orderflow_admin"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
            True,
            "Strict",
            "/admin",
        )
        assert "orderflow_admin" not in await page.evaluate("document.cookie")

        # A link in a chat or an alert begins at another site, which the cookie does not go with.
        await page.route(
            "http://chat.test/",
            lambda route: route.fulfill(
                content_type="text/html", body=f"<a href='{closed_shop.url}/admin/audit'>look</a>"
            ),
        )
        await page.goto("http://chat.test/")
        await page.get_by_role("link", name="look").click()
        await operator.sees("Nothing was done by hand yet.")

        # And a form there does nothing.
        await page.route(
            "http://chat.test/",
            lambda route: route.fulfill(
                content_type="text/html",
                body=f"<form method=post action='{closed_shop.url}{QUEUE}/pause'>"
                "<input name=reason value=evil><button>win</button></form>",
            ),
        )
        await page.goto("http://chat.test/")
        await page.get_by_role("button", name="win").click()
        await page.wait_for_url(f"{closed_shop.url}/**")
        await operator.open(QUEUE)
        await operator.sees("running")

        await page.get_by_role("button", name="Sign out").click()
        await operator.open("/admin")
        await expect(page).to_have_title("Sign in · orderflow")
        assert operator.complaints == []


async def test_the_overview_follows_by_itself(olga: Operator, resources: Resources):
    page = olga.page
    card = page.get_by_role("article", name="payment-processing")
    await expect(page.get_by_role("status")).to_have_text("Live")
    waiting = card.get_by_role("link").nth(1)
    await expect(waiting).to_have_text("0")
    await waiting.focus()

    for number in range(3):
        await add(resources, f"job-{number}")
    await expect(waiting).to_have_text("3")
    # What a person is at stays where it is while numbers change beneath.
    await expect(waiting).to_be_focused()
    await resources.queues.queue("payment-processing").pause()
    await expect(card).to_contain_text("paused")

    await page.get_by_role("button", name="Pause updates").click()
    await expect(page.get_by_role("status")).to_have_text("Updates are paused")
    await resources.queues.queue("payment-processing").resume()
    await page.get_by_role("button", name="Go on").click()
    await expect(card).to_contain_text("running")

    olga.shop.start("payment")
    await expect(page.get_by_role("region", name="Workers")).to_contain_text("python")
    await expect(waiting).to_have_text("0", timeout=20_000)
    olga.shop.kill("api")
    await expect(page.get_by_role("status")).to_have_text("Connection lost, trying again")
    olga.shop.start("api")
    await expect(page.get_by_role("status")).to_have_text("Live", timeout=20_000)


async def test_a_queue_is_steered(
    olga: Operator,
    resources: Resources,
    redis: Redis,
    keys: str,
    sql: asyncpg.Connection[asyncpg.Record],
):
    page = olga.page
    for number in range(3):
        await add(resources, f"job-{number}")
    await add(resources, "later", delay=3_600_000)
    await olga.open(QUEUE)

    await page.get_by_role("link", name="Pause…").click()
    await olga.sees("No worker starts a job of this queue any more")
    await page.get_by_role("button", name="Pause", exact=True).click()
    # The browser itself asks for the reason, and nothing is sent without.
    assert await page.get_by_label("Reason").evaluate("field => field.validity.valueMissing")
    assert not redis.hexists(f"{keys}:meta", "paused")
    await page.get_by_label("Reason").fill("the bank is down")
    await page.keyboard.press("Enter")
    await olga.sees("Pause payment-processing: done.")
    assert redis.hexists(f"{keys}:meta", "paused")

    await olga.do("Resume…", "Resume", "the bank is back")
    await olga.sees("Resume payment-processing: done.")
    assert not redis.hexists(f"{keys}:meta", "paused")

    await olga.do("Rate limit…", "Set the limit", "go easy", Jobs="7", Milliseconds="2000")
    await olga.sees("7 in 2 s at most")
    assert redis.hmget(f"{keys}:meta", "max", "duration") == ["7", "2000"]
    await olga.do("Rate limit…", "Set the limit", "as before", Jobs="")
    await olga.sees("Set rate limit payment-processing: done.")
    assert redis.hget(f"{keys}:meta", "max") is None

    await olga.do("Global concurrency…", "Set the limit", "one by one", Jobs_at_once="1")
    await olga.sees("1 at once")
    assert redis.hget(f"{keys}:meta", "concurrency") == "1"

    await page.get_by_role("link", name="Drain…").click()
    await olga.sees("3 just now")
    await page.get_by_role("link", name="Cancel").click()
    assert redis.llen(f"{keys}:wait") == 3
    await olga.do("Drain…", "Remove the waiting jobs", "sent twice")
    await olga.sees("Drain payment-processing: done. delayed no, removed 3")
    assert (redis.llen(f"{keys}:wait"), redis.zcard(f"{keys}:delayed")) == (0, 1)

    redis.zadd(f"{keys}:failed", {"old": 1})
    redis.hset(f"{keys}:old", mapping={"name": "process-payment", "data": "{}", "timestamp": 1})
    await olga.do("Clean…", "Remove these jobs", "long over", Seconds_since_their_end="60")
    await olga.sees("Clean payment-processing: done.")
    assert redis.zcard(f"{keys}:failed") == 0

    assert audit(await sql.fetch(_ENDED)) == [
        ("olga", "pause", "the bank is down", "done"),
        ("olga", "resume", "the bank is back", "done"),
        ("olga", "set rate limit", "go easy", "done"),
        ("olga", "set rate limit", "as before", "done"),
        ("olga", "set concurrency", "one by one", "done"),
        ("olga", "drain", "sent twice", "done"),
        ("olga", "clean", "long over", "done"),
    ]
    await page.get_by_role("link", name="Audit").click()
    await expect(page.get_by_role("row")).to_have_count(8)
    await olga.sees("the bank is down")


async def test_a_job_is_mended(
    olga: Operator, resources: Resources, redis: Redis, keys: str, settings: Settings
):
    page = olga.page
    olga.shop.start("payment")
    await add(resources, "broken")
    await add(resources, "later", delay=3_600_000)
    await add(resources, "left")
    wait_until(lambda: redis.zcard(f"{keys}:failed") == 2, "two failed jobs")
    olga.shop.stop("payment")
    assert settings.queue_prefix in keys

    await olga.open(f"{QUEUE}?state=failed")
    await page.get_by_role("link", name="broken").click()
    await olga.sees("orderId: Field required")
    await expect(page.get_by_role("main")).not_to_contain_text("tok_x")
    await page.get_by_text("Stack", exact=True).first.click()
    await olga.sees("Traceback (most recent call last)")

    await olga.do("Retry…", "Retry", "perhaps now")
    await olga.sees("Retry payment-processing broken: done.")
    assert redis.lrange(f"{keys}:wait", 0, -1) == ["broken"]
    assert redis.hget(f"{keys}:broken", "atm") in {None, "0"}

    await olga.open(f"{QUEUE}/job?id=left")
    await page.get_by_role("link", name="Edit and retry…").click()
    shown = json.loads(await page.get_by_label("Data", exact=True).input_value())
    assert shown["paymentData"]["token"] == "***"
    await page.get_by_label("Data", exact=True).fill(json.dumps(shown | {"orderId": "ours-1"}))
    await page.get_by_label("Reason").fill("the field was missing")
    await page.get_by_role("button", name="Save and retry").click()
    await olga.sees("Retry with edited data payment-processing left: done.")
    kept = json.loads(redis.hget(f"{keys}:left", "data"))
    assert (kept["orderId"], kept["paymentData"]["token"]) == ("ours-1", "tok_x")

    await olga.open(f"{QUEUE}/job?id=later")
    await olga.do("Promote…", "Promote", "now, please")
    await olga.sees("Promote payment-processing later: done.")
    assert redis.zcard(f"{keys}:delayed") == 0

    # As a worker leaves it that died: active, and nobody holds its lock.
    redis.lmove(f"{keys}:wait", f"{keys}:active", "RIGHT", "LEFT")
    [active] = redis.lrange(f"{keys}:active", 0, -1)
    await olga.open(f"{QUEUE}?state=active")
    await page.get_by_role("link", name=active).click()
    await olga.do("Move back to waiting…", "Move back", "its worker is gone")
    await olga.sees(f"Move to waiting payment-processing {active}: done.")
    assert redis.llen(f"{keys}:active") == 0

    await olga.open(f"{QUEUE}/job?id=broken")
    await olga.do("Remove…", "Remove", "not wanted")
    await olga.sees("Remove payment-processing broken: done.")
    assert not redis.exists(f"{keys}:broken")


async def test_a_group_of_failures_is_retried_and_discarded(
    olga: Operator, resources: Resources, redis: Redis, keys: str
):
    page, jobs = olga.page, 12
    olga.shop.start("payment")
    for number in range(jobs):
        await add(resources, f"job-{number}")
    wait_until(lambda: redis.zcard(f"{keys}:failed") == jobs, "the failures")

    await page.get_by_role("link", name="Failures").click()
    row = page.get_by_role("row", name="InvalidPayload")
    await expect(row).to_contain_text(re.compile(rf"{jobs}\s+{jobs}"), timeout=20_000)
    await row.get_by_role("link", name="InvalidPayload").click()
    await olga.do("Retry the group…", f"Retry {jobs} jobs", "a new release", Jobs_a_second="1000")
    await olga.sees(re.compile(rf"done\s+{jobs} of"))
    wait_until(lambda: redis.zcard(f"{keys}:failed") == jobs, "the failures, once more")
    olga.shop.stop("payment")

    await page.get_by_role("link", name="The group").click()
    await olga.do("Discard the group…", f"Discard {jobs} jobs", "no use", Jobs_a_second="2")
    # Its progress comes by itself; and half-way somebody stops it.
    progress = page.get_by_role("progressbar")
    await expect(progress).not_to_have_attribute("value", "0", timeout=20_000)
    await olga.do("Stop…", "Stop", "wait a moment")
    await olga.sees(re.compile(r"stopped\s+\d+ of"))
    left = redis.zcard(f"{keys}:failed")
    assert 0 < left < jobs

    await page.get_by_role("link", name="The group").click()
    await page.get_by_role("link", name="Discard the group…").click()
    await olga.sees(f"{left} have still failed")
    await olga.sees(f"removed {jobs - left}")
    await page.get_by_label("Jobs a second").fill("1000")
    await page.get_by_label("Reason").fill("the rest, too")
    await page.get_by_role("button", name=f"Discard {left} jobs").click()
    await olga.sees(re.compile(r"done\s+\d+ of"))
    assert redis.zcard(f"{keys}:failed") == 0
    await page.get_by_role("link", name="Audit").click()
    for reason in ("a new release", "no use", "wait a moment", "the rest, too"):
        await olga.sees(reason)


async def test_an_order_is_found_by_all_of_its_names_and_told(
    olga: Operator, sql: asyncpg.Connection[asyncpg.Record]
):
    page = olga.page
    olga.shop.start("payment", "notification")
    receipt = olga.shop.checkout()
    order_id = receipt["orderId"]
    olga.shop.wait_for(order_id, "confirmed")
    transaction = await sql.fetchval("SELECT transaction_id FROM payments")
    job_id = f"payment-{receipt['paymentId']}"
    for name in (order_id, receipt["paymentId"], job_id, "ADA@shop.example", "user-1", transaction):
        await olga.search(name)
        if "/search" in page.url:
            await page.get_by_role("link", name=order_id, exact=True).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {order_id}")
        await olga.open("/admin")

    await olga.open(f"/admin/orders/{order_id}")
    story = page.get_by_role("listitem")
    await expect(story.last).to_contain_text("order-confirmation completed", timeout=20_000)
    told = "\n".join(await story.all_inner_texts())
    for happened in (
        "the order was placed",
        "process-payment was added to payment-processing",
        "attempt 1 of process-payment began",
        "the gateway took the money",
        "order-confirmation was sent by email",
        "the customer knows it: confirmed",
    ):
        assert happened in told
    assert "ada@shop.example" not in told


async def test_an_order_is_shipped_delivered_refunded_and_another_cancelled(
    olga: Operator, sql: asyncpg.Connection[asyncpg.Record]
):
    page = olga.page
    olga.shop.start("payment")
    order_id = olga.shop.checkout()["orderId"]
    olga.shop.wait_for(order_id, "confirmed")
    olga.shop.stop("payment")
    await olga.open(f"/admin/orders/{order_id}")
    await olga.do("Ship…", "Mark as shipped", "on the van", Carrier="DHL", Tracking_number="JD01")
    await olga.sees(f"Ship {order_id}: done. carrier DHL, tracking number JD01")
    await olga.do("Mark as delivered…", "Mark as delivered", "the carrier says so")
    await olga.sees(f"Deliver {order_id}: done.")
    await olga.do("Refund…", "Give the money back", "a chip in the glass", Amount="5")
    await olga.sees("Amount must be more than zero with two decimals")
    await page.get_by_label("Amount").fill("5.00")
    await page.get_by_role("button", name="Give the money back").click()
    await olga.sees(f"Refund {order_id}: done.")
    assert [row["amount"] for row in await sql.fetch("SELECT amount FROM refunds")] == [5]
    await olga.do("Refund…", "Give the money back", "all of it", Amount="1000.00")
    await olga.sees("only 29.00 EUR are left to be given back")
    await expect(page.get_by_role("navigation", name="Main")).to_be_visible()
    await olga.open(f"/admin/orders/{order_id}")
    await olga.sees("because a chip in the glass: done")
    await olga.sees("because all of it: refused")

    pending = olga.shop.checkout()["orderId"]
    await olga.open(f"/admin/orders/{pending}")
    await olga.do("Cancel the order…", "Cancel the order", "asked for by phone")
    await olga.sees(f"Cancel {pending}: done.")
    assert await sql.fetchval("SELECT status FROM orders WHERE id = $1", pending) == "cancelled"


async def test_it_works_without_script(
    browser: Browser, closed_shop: ShopProcesses, redis: Redis, keys: str
):
    closed_shop.start("api")
    async with window(browser, closed_shop, java_script_enabled=False) as operator:
        await operator.open(QUEUE)
        await operator.sign_in()
        await operator.do("Pause…", "Pause", "to see")
        await operator.sees("Pause payment-processing: done.")
    assert redis.hexists(f"{keys}:meta", "paused")


async def test_it_works_by_keyboard(olga: Operator):
    page = olga.page
    # What a server was too late to say is not there to go to, until the page follows.
    await expect(page.get_by_role("link", name="payment-processing").first).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Pause updates")).to_be_focused()
    await page.keyboard.press("Tab")
    # A failure tells what is focused in its place.
    await expect(page.locator(":focus")).to_have_attribute("href", QUEUE)
    await page.keyboard.press("Enter")
    await expect(page).to_have_title("payment-processing · orderflow")


def test_streams_are_bounded_and_hold_up_no_stop(closed_shop: ShopProcesses):
    # To wait for a stream would be to wait for all of the drain, and that is longer than a stop
    # may take here.
    closed_shop.start("api", DRAIN_TIMEOUT_MS="600000")
    client = closed_shop.client("olga", admin=True)
    client.headers["Accept"] = "text/event-stream"
    open_streams = []
    while len(open_streams) < 100:
        answer = client.send(client.build_request("GET", "/admin"), stream=True)
        if answer.status_code != httpx.codes.OK:
            break
        open_streams.append(answer)
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert len(open_streams) == 50

    events = open_streams[0].iter_lines()
    assert next(events) == "event: page"
    assert "Redis" in next(line for line in events if "<h2>" in line)
    open_streams.pop().close()
    wait_until(lambda: client_can_follow(client), "room for another stream")

    short = make_token(SECRET, "olga", admin=True, ttl_s=2)
    open_streams.pop().close()
    wait_until(lambda: client_can_follow(client), "room for another stream")
    with client.stream("GET", "/admin", headers={"Authorization": f"Bearer {short}"}) as stream:
        assert stream.status_code == httpx.codes.OK
        assert stream.read()  # to its end, which is that of the token

    closed_shop.stop("api")
    client.close()


def client_can_follow(client: httpx.Client) -> bool:
    with client.stream("GET", "/admin") as stream:
        return stream.status_code == httpx.codes.OK
