"""What a form sends, and the proof that it was a form of this page."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from orderflow.dashboard.session import keep

CSRF_FIELD = "csrf"
_COOKIE = "orderflow_admin_csrf"
_MOST_FIELDS = 50


class ForeignForm(Exception):
    """The form was not one of this page, or is too old to tell."""


def csrf_token(request: Request) -> str:
    """Return what a form of the answer to this request has to send back."""
    # Made once a request, so that every form of the page has the one that its cookie gets.
    if not hasattr(request.state, "csrf"):
        request.state.csrf = request.cookies.get(_COOKIE) or secrets.token_urlsafe(32)
    token: str = request.state.csrf
    return token


def keep_csrf_token(request: Request, response: Response) -> None:
    """Have the browser keep what the forms of this answer will be compared with."""
    if request.cookies.get(_COOKIE) != csrf_token(request):
        keep(request, response, _COOKIE, csrf_token(request))


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of the form. Raises ForeignForm unless one of our pages sent it."""
    # A browser says who began a request; where one does not, the token alone has to tell.
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise ForeignForm
    body = (await request.body()).decode("utf-8", "replace")
    try:
        form = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise ForeignForm from None
    kept = request.cookies.get(_COOKIE, "")
    if not kept or not secrets.compare_digest(kept.encode(), form.pop(CSRF_FIELD, "").encode()):
        raise ForeignForm
    return form
