"""The shop's one page: what is for sale, and the cards that the sandbox gateway knows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from orderflow import __version__
from orderflow.api.state import state_of
from orderflow.api.static_files import StaticFiles
from orderflow.dashboard.templating import STATIC as OF_DASHBOARD

STATIC = StaticFiles("orderflow.demo", "/demo/static")

#: Nobody looks at more on one page.
_MOST_PRODUCTS = 100

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A card of the sandbox gateway: the token that stands for it, and how it goes."""

    token: str
    name: str
    what_happens: str


CARDS = (
    Card("tok_approve", "Good card", "is charged at once"),
    Card("tok_decline", "Declined card", "the order is cancelled, and its stock goes back"),
    Card("tok_decline_insufficient_funds", "Empty card", "declined, with that reason"),
    Card("tok_slow", "Slow card", "is charged, and the gateway takes 3 s to say so"),
    Card("tok_lost_answer", "Lost answer", "is charged, and nobody hears; then it is asked about"),
    Card("tok_503_twice", "Gateway down", "is tried again until the gateway is back"),
)


async def get_shop(request: Request) -> Response:
    """Answer the page, with the stock that there is now."""
    products = await state_of(request).resources.db.fetch("products_on_show", _MOST_PRODUCTS)
    html = _template().render(products=products, cards=CARDS)
    return HTMLResponse(html, headers=_HEADERS)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orderflow.demo"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    icon = OF_DASHBOARD.url("icon.svg")
    environment.globals |= {"static": STATIC.url, "icon": icon, "version": __version__}
    return environment.get_template("shop.html")
