"""Who is calling: bearer tokens (JWT), signed by the shop's own login."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import structlog
from jwt.exceptions import InvalidSubjectError
from starlette.datastructures import Headers

from orderflow.api.faults import Fault
from orderflow.api.jwks import Keys, PublicKeys, SharedSecret, is_url
from orderflow.api.problems import Kind, Problem
from orderflow.errors import InvalidSettings
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

MAX_USER_ID = 255
_ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling. An admin sees everybody's orders."""

    id: str
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """What a good token says: who it is of, and the Unix time at which it expires."""

    user: User
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Checked:
    """A token that was found good, and the Unix time until which that is believed."""

    session: Session
    good_until: float


#: A signature costs as much to check as all else about a request. A key that is taken back stops
#: being trusted so much later; an expired token is refused at once.
_CHECKED_FOR_S = 60.0
_MOST_CHECKED = 10_000


class Tokens:
    """Checks bearer tokens, each of them once in a while."""

    def __init__(self, keys: Keys, audience: str | None, issuer: str | None) -> None:
        self._keys = keys
        self._checked: dict[str, _Checked] = {}
        self._audience = audience
        self._issuer = issuer

    async def user(self, headers: Headers) -> User:
        """Return who the request's token names. Raises Problem, and never shows the token."""
        return (await self.session(bearer_token(headers))).user

    async def session(self, token: str) -> Session:
        """Return what the token says. Raises Problem, and never shows the token."""
        now = time.time()
        checked = self._checked.get(token)
        if checked is not None and now < checked.good_until:
            return checked.session
        try:
            claims = await self._claims(token)
            user = _user(claims)
        except jwt.PyJWTError as error:
            log.info("token refused", reason=type(error).__name__)
            raise _unauthenticated(
                _DETAILS.get(type(error), "The token is not one that this shop's login signed."),
                'Bearer error="invalid_token"',
            ) from None
        session = Session(user, float(claims["exp"]))
        self._remember(token, _Checked(session, min(session.expires_at, now + _CHECKED_FOR_S)))
        return session

    def _remember(self, token: str, checked: _Checked) -> None:
        if len(self._checked) >= _MOST_CHECKED:
            self._checked.clear()
        self._checked[token] = checked

    async def _claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that is valid now and here. Raises jwt.PyJWTError."""
        key = await self._keys.of(token)
        if key is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._audience,
            issuer=self._issuer,
            options={
                "require": ["exp", "sub"],
                "verify_aud": self._audience is not None,
                # When it was made binds nobody, and clocks differ; nbf and exp do bind.
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )


def check_authentication(settings: Settings) -> None:
    """Raise InvalidSettings if the settings leave no way to know who is calling."""
    if settings.jwt_secret is None and settings.jwt_jwks is None:
        raise InvalidSettings(faults="JWT_SECRET or JWT_JWKS must be set, to check tokens with")
    if settings.development and settings.jwt_secret is None:
        raise InvalidSettings(faults="DEVELOPMENT: /demo needs JWT_SECRET, to sign tokens with")
    source = settings.jwt_jwks
    if source is not None and not is_url(source) and not Path(source).is_file():
        raise InvalidSettings(faults="JWT_JWKS: must be a file that exists, or an https:// URL")


@asynccontextmanager
async def open_tokens(settings: Settings) -> AsyncIterator[Tokens]:
    """Give the check that the settings describe. Raises InvalidSettings if they describe none."""
    check_authentication(settings)
    if settings.jwt_secret is not None:
        secret = SharedSecret(settings.jwt_secret.get_secret_value())
        yield Tokens(secret, settings.jwt_audience, settings.jwt_issuer)
        return
    # The issuer may be behind a company's proxy and certificates: the environment's are used.
    async with httpx.AsyncClient() as client:
        keys = PublicKeys(settings.jwt_jwks or "", client)
        yield Tokens(keys, settings.jwt_audience, settings.jwt_issuer)


def bearer_token(headers: Headers) -> str:
    """Return the token of `Authorization`, not checked. Raises Problem where there is not one."""
    given = headers.getlist("authorization")
    if not given:
        # RFC 6750: a request that did not try is told how to, and not that its token is wrong.
        raise _unauthenticated("Send `Authorization: Bearer TOKEN`.", 'Bearer realm="orderflow"')
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise _unauthenticated(
            "Send one `Authorization: Bearer TOKEN`.", 'Bearer error="invalid_token"'
        )
    return token.strip()


def _user(claims: dict[str, Any]) -> User:
    """Read the user. Raises InvalidSubjectError for a `sub` that is not fit to be stored."""
    user_id = claims["sub"]
    if not 1 <= len(user_id) <= MAX_USER_ID or any(map(_is_control, user_id)):
        raise InvalidSubjectError
    roles = claims.get("roles")
    return User(user_id, admin=isinstance(roles, list) and _ADMIN in roles)


def _is_control(character: str) -> bool:
    """Say whether it is a control character, or half of a surrogate pair, which is no text."""
    return unicodedata.category(character) in {"Cc", "Cs"}


#: What is wrong, without a word of the token itself.
_DETAILS: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.MissingRequiredClaimError: "The token lacks a claim: `sub`, `exp`, or one that is checked.",
    jwt.InvalidAudienceError: "The token is meant for another audience.",
    jwt.InvalidIssuerError: "The token is of another issuer.",
    InvalidSubjectError: f"The token's `sub` must be 1 to {MAX_USER_ID} printable characters.",
}


def _unauthenticated(detail: str, challenge: str) -> Problem:
    return Problem(
        Kind.UNAUTHENTICATED,
        detail,
        faults=[Fault("Authorization", "valid-bearer-token", detail)],
        headers={"WWW-Authenticate": challenge},
    )
