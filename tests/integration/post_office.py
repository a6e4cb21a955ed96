"""A mail server in the test's own process, which says what the test wants it to say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


@dataclass
class PostOffice:
    """What came in, and what is answered. The hooks are aiosmtpd's."""

    port: int = 0
    #: Whether it says that it takes commands together, as most servers do. It does in any case.
    says_pipelining: bool = False
    #: Answers in place of the usual ones, by the command.
    answers: dict[str, str] = field(default_factory=dict)
    #: While it is not set, no mail is taken.
    open: asyncio.Event = field(default_factory=asyncio.Event)
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    signed_in: list[bool] = field(default_factory=list)
    most_at_once: int = 0
    sessions: list[Any] = field(default_factory=list)
    connected: set[Any] = field(default_factory=set)

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, _envelope: Envelope, name: str, said: list[str]
    ) -> list[str]:
        session.host_name = name
        self.connected.add(server)
        return [*said[:-1], "250-PIPELINING", said[-1]] if self.says_pipelining else said

    async def handle_MAIL(  # noqa: N802
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _o: list[str]
    ) -> str:
        if "RCPT" in self.answers:
            return self.answers["RCPT"].format(address=address)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        await self.open.wait()
        if "DATA" in self.answers:
            return self.answers["DATA"]
        content = envelope.original_content or b""
        self.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(content))
        self.recipients.extend(envelope.rcpt_tos)
        self.signed_in.append(session.authenticated is True)
        return "250 OK"

    def hang_up(self) -> None:
        """Close every connection, as a server does with those that rest."""
        for server in self.connected:
            if server.transport is not None:
                server.transport.close()
        self.connected.clear()


@asynccontextmanager
async def open_post_office(
    tls: ssl.SSLContext | None = None, password: str = "", **options: Any
) -> AsyncIterator[PostOffice]:
    """Give a server on a loopback port. With `tls` it wants TLS: from the first byte on where
    `implicit`, else by STARTTLS. With a `password` it wants the user `shop` to sign in.
    """
    office = PostOffice(says_pipelining=options.pop("says_pipelining", False))
    office.open.set()
    implicit = options.pop("implicit", False)

    def judge(*args: Any) -> AuthResult:
        login = args[-1]
        good = (login.login, login.password) == (b"shop", password.encode())
        return AuthResult(success=good, handled=False)

    if password:
        # aiosmtpd knows nothing of the TLS that was there before it.
        options |= {"authenticator": judge, "auth_require_tls": not implicit}
        options |= {"auth_required": not implicit}
    if tls is not None and not implicit:
        options |= {"tls_context": tls, "require_starttls": True}
    loop = asyncio.get_running_loop()

    def serve() -> SMTP:
        server = SMTP(office, hostname="office", loop=loop, **options)
        office.sessions.append(server)
        return server

    listening = await loop.create_server(serve, "127.0.0.1", 0, ssl=tls if implicit else None)
    office.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield office
        office.hang_up()
