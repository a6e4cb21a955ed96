"""Signing in with a token, and signing out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from orderflow.dashboard.forms import read_form
from orderflow.dashboard.pages import error_page, render, see_other
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
    """Keep the token of the form, if it is a good one of an admin, and go where they wanted to."""
    try:
        form = await read_form(request)
        onward = _onward(form.get("onward", ""))
        token = form.get("token", "").strip().removeprefix("Bearer ").strip()
        try:
            session = await checked_session(request, _short_enough(token))
        except SignedOut as refused:
            return render(request, "login.html", 401, reason=refused.reason, onward=onward)
    except Exception as error:
        return error_page(request, error)
    response = see_other(onward)
    sign_in(request, response, token, session)
    return response


async def post_logout(request: Request) -> Response:
    """Forget the token."""
    try:
        await read_form(request)
    except Exception as error:
        return error_page(request, error)
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
