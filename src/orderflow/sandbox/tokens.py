"""Bearer tokens for development and tests. A shop's own login makes the real ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jwt


def make_token(
    secret: str,
    user: str,
    *,
    admin: bool = False,
    ttl_s: int = 3_600,
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a bearer token for `user`, signed with HS256; `more` are further claims."""
    claims: dict[str, Any] = {**more, "sub": user, "exp": int(time.time()) + ttl_s}
    if admin:
        claims["roles"] = ["admin"]
    return jwt.encode(claims, secret, algorithm="HS256")
