"""Tokens checked with public keys: from a file or a login's server, in good days and bad."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from orderflow.api.jwks import PublicKeys
from orderflow.api.problems import Problem
from orderflow.sandbox.servers import free_port
from orderflow.settings import Settings


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "user-1", "exp": int(time.time()) + 60} | changes


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@dataclass(frozen=True)
class Signer:
    """A key pair of a login."""

    kid: str
    algorithm: str
    private: Any

    def jwk(self, **changes: Any) -> dict[str, Any]:
        formats = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        public = formats[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return public | {"kid": self.kid} | changes

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, **changes: Any) -> str:
        return jwt.encode(
            claims(**changes), self.private, algorithm=self.algorithm, headers={"kid": self.kid}
        )


RSA = Signer("rsa-1", "RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048))
EC = Signer("ec-1", "ES256", ec.generate_private_key(ec.SECP256R1()))
ED = Signer("ed-1", "EdDSA", ed25519.Ed25519PrivateKey.generate())
NEW = Signer("ec-2", "ES256", ec.generate_private_key(ec.SECP256R1()))


def jwks(*keys: Any) -> bytes:
    listed = [key.jwk() if isinstance(key, Signer) else key for key in keys]
    return json.dumps({"keys": listed}).encode()


@dataclass
class Login:
    """A login's server: what it publishes, and how often it was asked."""

    port: int
    document: bytes = jwks(RSA, EC, ED)
    status: int = 200
    asked: int = 0
    answer: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"


@pytest.fixture
def login() -> Iterator[Login]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login.asked += 1
            login.answer.wait(10)
            self.send_response(login.status)
            self.send_header("Content-Length", str(len(login.document)))
            self.end_headers()
            self.wfile.write(login.document)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        login = Login(server.server_address[1])
        login.answer.set()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield login
        login.answer.set()
        server.shutdown()
        thread.join()


def with_jwks(settings: Settings, source: object) -> Settings:
    return settings.model_copy(update={"jwt_secret": None, "jwt_jwks": str(source)})


@pytest.mark.parametrize("signer", [RSA, EC, ED], ids=lambda signer: signer.algorithm)
async def test_keys_of_each_type_from_a_url(
    serve: Any, settings: Settings, login: Login, signer: Signer
) -> None:
    async with serve(with_jwks(settings, login.url)) as api:
        assert (await api.list_with(signer.token())).status_code == 200
        assert (await api.list_with(signer.token())).status_code == 200
        assert_refused(await api.list_with(signer.token(exp=1)))

    assert login.asked == 1


async def test_keys_from_a_file_that_is_replaced(
    serve: Any, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(EC))
    async with serve(with_jwks(settings, file)) as api:
        assert (await api.list_with(EC.token())).status_code == 200
        file.write_bytes(jwks(NEW))
        assert (await api.list_with(NEW.token())).status_code == 200
        # The old key left the file, and with it our trust.
        assert_refused(await api.list_with(EC.token()))


async def test_a_public_key_is_no_secret(
    serve: Any, forge: Any, settings: Settings, login: Login
) -> None:
    async with serve(with_jwks(settings, login.url)) as api:
        for key in (RSA.pem(), json.dumps(RSA.jwk()).encode(), RSA.jwk()["n"].encode()):
            header = {"alg": "HS256", "kid": RSA.kid}
            assert_refused(await api.list_with(forge(header, claims(), key)))
        assert_refused(await api.list_with(forge({"alg": "none", "kid": RSA.kid}, claims())))


async def test_a_key_of_one_type_checks_no_other(
    serve: Any, settings: Settings, login: Login
) -> None:
    async with serve(with_jwks(settings, login.url)) as api:
        for algorithm in ("RS384", "PS256"):
            token = jwt.encode(claims(), RSA.private, algorithm=algorithm, headers={"kid": RSA.kid})
            assert_refused(await api.list_with(token))
        token = jwt.encode(claims(), EC.private, algorithm="ES256", headers={"kid": ED.kid})
        assert_refused(await api.list_with(token))


async def test_a_token_brings_no_key_of_its_own(
    serve: Any, settings: Settings, login: Login
) -> None:
    async with serve(with_jwks(settings, login.url)) as api:
        for header in ({"jwk": NEW.jwk()}, {"jku": login.url}, {"jwk": NEW.jwk(), "kid": EC.kid}):
            token = jwt.encode(claims(), NEW.private, algorithm="ES256", headers=header)
            assert_refused(await api.list_with(token))


async def test_keys_that_are_not_for_this_are_left_out(
    serve: Any, forge: Any, settings: Settings, login: Login
) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    weak = Signer("weak", "RS256", small)
    secret = {
        "kty": "oct",
        "kid": "oct",
        "k": base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("="),
    }
    login.document = jwks(
        EC.jwk(use="enc"), ED.jwk(alg="ES256"), weak, secret, RSA, "x", {"kty": ["RSA"]}
    )
    async with serve(with_jwks(settings, login.url)) as api:
        assert (await api.list_with(RSA.token())).status_code == 200
        assert_refused(await api.list_with(EC.token()))
        assert_refused(await api.list_with(ED.token()))
        assert_refused(
            await api.list_with(forge({"alg": "HS256", "kid": "oct"}, claims(), b"s" * 32))
        )
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            token = weak.token()
        assert_refused(await api.list_with(token))


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, jwks(EC)),
        (404, jwks(EC)),
        (302, jwks(EC)),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": []}'),
        (200, b"\xff"),
    ],
)
async def test_keys_that_cannot_be_had_are_nobodys_fault(
    serve: Any, settings: Settings, login: Login, status: int, document: bytes
) -> None:
    login.status, login.document = status, document
    async with serve(with_jwks(settings, login.url)) as api:
        response = await api.list_with(EC.token())

    assert response.status_code == 503
    assert response.json()["type"] == "urn:orderflow:problem:signing-keys-unavailable"
    assert response.headers["Retry-After"] == "1"
    assert "WWW-Authenticate" not in response.headers


async def test_a_login_that_is_away_is_nobodys_fault(serve: Any, settings: Settings) -> None:
    async with serve(with_jwks(settings, f"http://127.0.0.1:{free_port()}/jwks")) as api:
        assert (await api.list_with(EC.token())).status_code == 503
        # What cannot be a token needs no keys to be refused.
        assert_refused(await api.list_with("x"))


async def test_a_login_that_hangs_holds_nobody_up(
    serve: Any, settings: Settings, login: Login
) -> None:
    login.answer.clear()
    begun = time.monotonic()
    async with serve(with_jwks(settings, login.url)) as api:
        response = await api.list_with(EC.token())

    assert response.status_code == 503
    assert time.monotonic() - begun < 4


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_an_unknown_key_is_asked_for_once_in_ten_seconds(login: Login) -> None:
    clock = Clock()
    async with httpx.AsyncClient() as client:
        keys = PublicKeys(login.url, client, clock)
        assert await keys.find(EC.kid) is not None
        # A new key is found at once; after that, strangers ask in vain.
        login.document = jwks(NEW)
        assert await keys.find(NEW.kid) is not None
        for stranger in range(5):
            assert await keys.find(f"stranger-{stranger}") is None
        assert login.asked == 2
        clock.now += 10
        assert await keys.find("stranger") is None
        assert login.asked == 3


async def test_known_keys_outlive_an_outage_of_the_login(login: Login) -> None:
    clock = Clock()
    async with httpx.AsyncClient() as client:
        keys = PublicKeys(login.url, client, clock)
        await keys.find(EC.kid)
        login.status = 500
        clock.now += 3_600
        assert await keys.find(EC.kid) is not None
        with pytest.raises(Problem):
            await keys.find(NEW.kid)
        # It is asked again soon, and then believed.
        login.status, login.document = 200, jwks(NEW)
        clock.now += 1
        assert await keys.find(EC.kid) is None
        assert await keys.find(NEW.kid) is not None


async def test_a_key_that_was_taken_back_ends(login: Login) -> None:
    clock = Clock()
    async with httpx.AsyncClient() as client:
        keys = PublicKeys(login.url, client, clock)
        await keys.find(EC.kid)
        login.document = jwks(NEW)
        clock.now += 299
        assert await keys.find(EC.kid) is not None
        clock.now += 1
        assert await keys.find(EC.kid) is None
