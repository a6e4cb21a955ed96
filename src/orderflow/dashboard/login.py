"""Signing in with a token, and signing out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from orderflow.dashboard.forms import read_form
from orderflow.dashboard.pages import render, see_other
from orderflow.dashboard.session import (
    MAX_TOKEN_CHARACTERS,
    SignedOut,
    checked_session,
    sign_in,
    sign_out,
)


async def get_login(request: Request) -> Response:
    """Answer the form that asks for a token."""
    onward = _onward(request.query_params.get("onward", ""))
    return render(request, "login.html", reason="", onward=onward)


async def post_login(request: Request) -> Response:
    """Keep the token of the form, if it is a good one of an admin, and go where they wanted to.

    Raises ForeignForm, NotAdmin, or Problem where tokens cannot be checked just now.
    """
    form = await read_form(request)
    onward = _onward(form.get("onward", ""))
    token = form.get("token", "").strip().removeprefix("Bearer ").strip()
    try:
        session = await checked_session(request, _short_enough(token))
    except SignedOut as refused:
        return render(request, "login.html", 401, reason=refused.reason, onward=onward)
    response = see_other(onward)
    sign_in(request, response, token, session)
    return response


async def post_logout(request: Request) -> Response:
    """Forget the token. Raises ForeignForm."""
    await read_form(request)
    response = see_other("/admin/login")
    sign_out(response)
    return response


def _short_enough(token: str) -> str:
    if not token:
        raise SignedOut("Paste a token.")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise SignedOut(
            f"The token may have {MAX_TOKEN_CHARACTERS} characters at most: a cookie holds no more."
        )
    return token


def _onward(asked: str) -> str:
    """Return where to go, which is never another site."""
    return asked if asked == "/admin" or asked.startswith(("/admin/", "/admin?")) else "/admin"
