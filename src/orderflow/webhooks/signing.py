"""Signatures as Standard Webhooks has them: HMAC-SHA256 by a secret that both sides know."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """Return a secret that nobody has."""
    return _PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def fingerprint(secret: str) -> str:
    """Return what a secret is recognised by, and cannot be found out from."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def signed_headers(
    message_id: str, timestamp_s: int, body: bytes, secrets_: Iterable[str]
) -> dict[str, str]:
    """Return the headers that sign a body sent at a Unix time, by each of the secrets."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets_),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = b64decode(secret.removeprefix(_PREFIX))
    return "v1," + b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
