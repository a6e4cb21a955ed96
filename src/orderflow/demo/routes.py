"""The addresses of the demo shop. Where DEVELOPMENT is not set there are none."""

from __future__ import annotations

from starlette.routing import Route

from orderflow.demo.mail import get_mail
from orderflow.demo.shop import STATIC, get_shop
from orderflow.demo.visitors import Visitors
from orderflow.settings import Settings


def demo_routes(settings: Settings) -> list[Route]:
    """Return the routes of /demo."""
    if not settings.development or settings.jwt_secret is None:
        return []
    visitors = Visitors(
        settings.jwt_secret.get_secret_value(),
        {"aud": settings.jwt_audience, "iss": settings.jwt_issuer},
    )
    return [
        Route("/demo", get_shop),
        Route("/demo/token", visitors.post_token, methods=["POST"]),
        Route("/demo/mails/{order_id}", get_mail),
        Route("/demo/static/{name}", STATIC.get),
    ]
