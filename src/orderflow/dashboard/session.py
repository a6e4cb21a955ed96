"""Who looks at the page: the token is in a cookie of its own, or added by a proxy."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from orderflow.api.auth import Session, bearer_token
from orderflow.api.problems import Kind, Problem
from orderflow.api.state import state_of

COOKIE = "orderflow_admin"
#: A browser drops a cookie that is larger, without a word.
MAX_TOKEN_CHARACTERS = 3_800
#: Browsers keep none for longer, and some refuse one that asks for it.
_LONGEST_S = 400 * 86_400


class SignedOut(Exception):
    """Nobody is signed in. `reason` says what was wrong with the token, if there was one."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class NotAdmin(Exception):
    """The token is good, and its user has not the role admin."""

    def __init__(self, user_id: str) -> None:
        super().__init__(user_id)
        self.user_id = user_id


async def admin_session(request: Request) -> Session:
    """Return the session of the admin who sent this request.

    A bearer token that came with it wins over the cookie. Raises SignedOut, NotAdmin, or Problem
    where tokens cannot be checked just now.
    """
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return await checked_session(request, bearer_token(request.headers))
    token = request.cookies.get(COOKIE)
    if not token:
        raise SignedOut
    return await checked_session(request, token)


async def checked_session(request: Request, token: str) -> Session:
    """Return the session that `token` is good for. Raises as `admin_session`."""
    try:
        session = await state_of(request).tokens.session(token)
    except Problem as problem:
        if problem.kind is not Kind.UNAUTHENTICATED:
            raise
        raise SignedOut(problem.detail) from None
    if not session.user.admin:
        raise NotAdmin(session.user.id)
    return session


def sign_in(request: Request, response: Response, token: str, session: Session) -> None:
    """Have the browser keep the token until it expires, where no script reads it."""
    lasts_s = min(int(session.expires_at - time.time()), _LONGEST_S)
    keep(request, response, COOKIE, token, lasts_s)


def sign_out(response: Response) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(COOKIE, path="/admin", httponly=True, samesite="strict")


def keep(
    request: Request, response: Response, name: str, value: str, lasts_s: int | None = None
) -> None:
    """Set a cookie that goes to this page alone, and with no request that another site began."""
    response.set_cookie(
        name,
        value,
        max_age=lasts_s,
        path="/admin",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
