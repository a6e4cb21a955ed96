"""The system's Chromium, and a person who looks at the operators' page with it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.conftest import SECRET
from tests.e2e.conftest import ShopProcesses

from orderflow.sandbox.tokens import make_token

#: As root Chromium needs the first; the others keep it from asking its makers for anything.
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Give a Chromium that knows nothing of earlier ones."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=list(_FLAGS)
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(frozen=True)
class Operator:
    """A person, their browser's window, and what it complained about."""

    page: Page
    shop: ShopProcesses
    complaints: list[str]

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.shop.url}{path}")

    async def sign_in(self, user: str = "olga", *, admin: bool = True) -> None:
        await self.page.get_by_label("Token").fill(make_token(SECRET, user, admin=admin))
        await self.page.get_by_role("main").get_by_role("button", name="Sign in").click()

    async def do(self, link: str, button: str, reason: str, **fields: str) -> None:
        """Choose an action, fill in what it asks, and confirm it."""
        await self.page.get_by_role("link", name=link, exact=True).click()
        for label, value in fields.items():
            await self.page.get_by_label(label.replace("_", " "), exact=True).fill(value)
        await self.page.get_by_label("Reason").fill(reason)
        await self.page.get_by_role("button", name=button).click()

    async def search(self, text: str) -> None:
        """Ask for something by the field that every page has."""
        await self.page.get_by_role("searchbox").fill(text)
        async with self.page.expect_navigation():
            await self.page.keyboard.press("Enter")

    async def sees(self, text: str | re.Pattern[str]) -> None:
        await expect(self.page.get_by_role("main")).to_contain_text(text, timeout=20_000)

    async def barriers(self) -> list[str]:
        """Return what axe finds that keeps people from using the page."""
        found: list[dict[str, Any]] = (await Axe().run(self.page)).response["violations"]
        return [
            f"{barrier['id']}: {node['html']}"
            for barrier in found
            if barrier["impact"] in {"serious", "critical"}
            for node in barrier["nodes"]
        ]

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        width: int = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width


@asynccontextmanager
async def window(
    browser: Browser, shop: ShopProcesses, *, width: int = 1280, **looks: Any
) -> AsyncIterator[Operator]:
    """Give a new window, that shares no cookie with others."""
    context = await browser.new_context(viewport={"width": width, "height": 800}, **looks)
    operator = Operator(await context.new_page(), shop, [])
    operator.page.on("pageerror", lambda error: operator.complaints.append(str(error)))
    operator.page.on(
        "console",
        lambda message: (
            operator.complaints.append(message.text)
            if "Content Security Policy" in message.text
            else None
        ),
    )
    try:
        yield operator
    finally:
        await context.close()
