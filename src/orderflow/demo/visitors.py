"""Who visits the demo shop: whoever opens it is somebody new, and gets the token of a customer.

A real shop has a login for that. This is why there is no demo shop but in development.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orderflow.sandbox.tokens import make_token

#: As long as anybody plays with it.
_TOKEN_TTL_S = 12 * 3_600


class Visitors:
    """Gives out tokens that are signed with `secret`, and have such `claims` as are asked for."""

    def __init__(self, secret: str, claims: Mapping[str, str | None]) -> None:
        self._secret = secret
        self._claims = {name: value for name, value in claims.items() if value is not None}

    async def post_token(self, _request: Request) -> Response:
        """Answer a new user and their token."""
        user = f"demo-{secrets.token_hex(4)}"
        token = make_token(self._secret, user, ttl_s=_TOKEN_TTL_S, more=self._claims)
        return JSONResponse({"user": user, "token": token})
