"""The demo shop in a real browser: order, watch it be confirmed or declined, and cancel."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, expect
from tests.e2e.browser import Operator, open_browser, window
from tests.e2e.conftest import ShopProcesses

PATIENCE_MS = 20_000


@pytest.fixture
def demo_shop(closed_shop: ShopProcesses) -> ShopProcesses:
    closed_shop.start("payment", "notification", "order", "api", DEVELOPMENT="true")
    return closed_shop


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as opened:
        yield opened


async def order(visitor: Operator, card: str, product: str = "Glass teapot 1 l") -> Locator:
    """Order something and return where the newest order is shown."""
    page = visitor.page
    shown = await page.get_by_role("article").count()
    await page.get_by_role("button", name=f"Add {product} to the cart").click()
    await page.get_by_label(card).check()
    await page.get_by_role("button", name="Order", exact=True).click()
    await expect(page.get_by_role("article")).to_have_count(shown + 1)
    return page.get_by_role("article").first


async def becomes(order: Locator, state: str | re.Pattern[str]) -> None:
    await expect(order.get_by_role("status")).to_have_text(state, timeout=PATIENCE_MS)


async def test_the_whole_way(browser: Browser, demo_shop: ShopProcesses):
    faults: list[str] = []
    async with window(browser, demo_shop, width=360, color_scheme="dark") as visitor:
        page = visitor.page
        await visitor.open("/demo")
        await expect(page.locator("#visitor")).to_have_text(re.compile("^demo-"))
        teapot = page.get_by_role("listitem").filter(has_text="Glass teapot 1 l")
        await expect(teapot).to_contain_text("500 in stock")
        faults += await visitor.barriers()

        paid = await order(visitor, "Good card")
        await becomes(paid, "Confirmed")
        last_step = paid.get_by_role("listitem").last
        await expect(last_step).to_contain_text("confirmed, payment completed")
        await paid.get_by_role("button", name="Read the mail").click()
        await expect(paid).to_contain_text("Subject: Your order")
        await expect(teapot).to_contain_text("499 in stock")

        declined = await order(visitor, "Empty card")
        await becomes(declined, "Cancelled: insufficient funds")
        await expect(declined.get_by_role("button", name="Cancel")).to_be_hidden()
        await expect(teapot).to_contain_text("499 in stock")
        assert await visitor.overflow() == 0
        faults += await visitor.barriers()

        # Who comes back finds their orders as they are.
        await page.reload()
        await expect(page.get_by_role("article")).to_have_count(2)
        await becomes(page.get_by_role("article").last, "Confirmed")
        assert visitor.complaints == []

    async with window(browser, demo_shop, color_scheme="light") as other:
        await other.open("/demo")
        await other.sees("You have none yet.")
        cancelled = await order(other, "Good card")
        await becomes(cancelled, "Confirmed")
        await cancelled.get_by_role("button", name="Cancel").click()
        await becomes(cancelled, "Cancelled")
        refunded = re.compile(r"payment refunded, refund of \S+ EUR completed")
        await expect(cancelled).to_contain_text(refunded, timeout=PATIENCE_MS)
        faults += await other.barriers()
        assert other.complaints == []
    assert faults == []


async def test_with_the_keyboard_alone_and_through_an_outage(
    browser: Browser, demo_shop: ShopProcesses
):
    async with window(browser, demo_shop) as visitor:
        page = visitor.page
        await visitor.open("/demo")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.get_by_role("button", name="Order", exact=True).press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("Put something into the cart first.")
        await page.get_by_role("button", name="Add Stoneware cup to the cart").press("Enter")
        amount = page.get_by_label("Stoneware cup", exact=True)
        await amount.fill("3")
        await expect(page.locator("#total")).to_have_text("Total: 33.75 EUR")
        email = page.get_by_label("E-mail")
        await email.fill("nobody")
        await email.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("/contact/email")

        demo_shop.stop("payment")
        await email.fill("ada@shop.example")
        await email.press("Enter")
        placed = page.get_by_role("article").first
        await becomes(placed, "Placed")
        demo_shop.stop("api")
        await expect(placed).to_contain_text("trying again", timeout=PATIENCE_MS)
        demo_shop.start("payment", "api", DEVELOPMENT="true")
        await becomes(placed, "Confirmed")
        assert visitor.complaints == []
