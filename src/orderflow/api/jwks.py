"""The keys that tokens are checked with: one shared secret, or public keys from a JWKS."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx
import jwt
import structlog

from orderflow.api.problems import Kind, Problem

log = structlog.get_logger(__name__)

#: The one algorithm of each type of key. What a token's header says never chooses it.
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}

_FETCH_TIMEOUT_S = 2.0
#: An unknown kid is a new key, or anybody's invention: it costs the issuer one fetch in this time.
_REFETCH_S = 10.0
#: After this time keys are looked up anew, so that one that was taken back stops being trusted.
_MAX_AGE_S = 300.0
_RETRY_S = 1.0


class Keys(Protocol):
    """Finds the key that a token says it is signed with."""

    async def of(self, token: str, /) -> jwt.PyJWK | None:
        """Return the key, bound to its one algorithm, or None if there is none.

        Raises jwt.PyJWTError if it is no token, and Problem when the keys cannot be fetched, so
        that nobody knows.
        """


class SharedSecret:
    """One secret for all tokens, with HS256."""

    def __init__(self, secret: str) -> None:
        k = urlsafe_b64encode(secret.encode()).decode()
        self._key = jwt.PyJWK({"kty": "oct", "k": k}, algorithm="HS256")

    async def of(self, _token: str, /) -> jwt.PyJWK:
        """Return the secret, whatever the token calls it."""
        return self._key


class PublicKeys:
    """The public keys of a JWKS, from a file or a URL, by their `kid`."""

    def __init__(
        self,
        source: str,
        client: httpx.AsyncClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._client = client
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._stale_at = -1.0
        self._refetch_at = -1.0
        self._retry_at = -1.0
        self._failed = False

    async def of(self, token: str, /) -> jwt.PyJWK | None:
        """Return the key that the token names; see Keys."""
        kid = jwt.get_unverified_header(token).get("kid")
        return None if kid is None else await self.find(kid)

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key named `kid`. Raises Problem when nobody knows."""
        # While another request fetches, a key that is known is good enough.
        if self._must_fetch(kid) and not (kid in self._keys and self._lock.locked()):
            async with self._lock:
                if self._must_fetch(kid):
                    await self._fetch()
        key = self._keys.get(kid)
        if key is None and self._failed:
            raise Problem(
                Kind.SIGNING_KEYS_UNAVAILABLE,
                "The token cannot be checked now; it may well be valid.",
            )
        return key

    def _must_fetch(self, kid: str) -> bool:
        now = self._clock()
        if now < self._retry_at:
            return False
        unknown = kid not in self._keys and now >= self._refetch_at
        return now >= self._stale_at or unknown

    async def _fetch(self) -> None:
        """Fetch the keys. A failure leaves those that were known, and is tried again soon."""
        first = not self._keys
        try:
            keys = _read_keys(await self._read())
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            log.warning("signing keys not fetched", reason=type(error).__name__)
            self._failed = True
            self._retry_at = self._clock() + _RETRY_S
            return
        self._failed = False
        self._keys = keys
        self._stale_at = self._clock() + _MAX_AGE_S
        if not first:
            self._refetch_at = self._clock() + _REFETCH_S

    async def _read(self) -> bytes:
        if not is_url(self._source):
            return await asyncio.to_thread(Path(self._source).read_bytes)
        # httpx bounds each read, not the whole: a slow trickle must not hold requests up.
        async with asyncio.timeout(_FETCH_TIMEOUT_S):
            response = await self._client.get(self._source, timeout=_FETCH_TIMEOUT_S)
        return response.raise_for_status().content


def is_url(source: str) -> bool:
    """Say whether JWT_JWKS is a URL; if not, it is a file."""
    return source.startswith(("https://", "http://"))


def _read_keys(document: bytes) -> dict[str, jwt.PyJWK]:
    """Read a JWKS. Raises ValueError if no key in it is of use."""
    content = json.loads(document)
    listed = content.get("keys") if isinstance(content, dict) else None
    keys: dict[str, jwt.PyJWK] = {}
    for entry in listed if isinstance(listed, list) else []:
        key = _read_key(entry)
        if key is not None and isinstance(key.key_id, str):
            keys[key.key_id] = key
    if not keys:
        raise ValueError("the JWKS has no usable key")
    return keys


def _read_key(entry: Any) -> jwt.PyJWK | None:
    """Return a public signing key with the one algorithm of its type, or None for any other."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    # A private key that was published by mistake is still only used to check with.
    public = {name: value for name, value in entry.items() if name != "d"}
    try:
        algorithm = _ALGORITHMS[entry["kty"], entry.get("crv")]
        return jwt.PyJWK(public, algorithm) if entry.get("alg", algorithm) == algorithm else None
    except (KeyError, TypeError, jwt.PyJWTError):
        return None
