"""One connection to the mail server, once it is open: what a mail is on it.

aiosmtplib connects, speaks TLS and signs in. For each mail it would then parse both addresses,
take a lock for each command and wait for four answers. So its socket is taken over here. Where the
server takes commands together (PIPELINING, RFC 2920) a mail waits for two.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import aiosmtplib
from aiosmtplib import SMTPStatus

#: An answer of one line or more, and its code.
_ANSWER = re.compile(rb"(?:\d{3}-[^\n]*\n)*(\d{3})(?: [^\n]*)?\r?\n")
_LONGEST_ANSWER = 32_768
_CODES = re.compile(r"^\d{3}[ -]?", re.MULTILINE)
_DATA = b"DATA\r\n"


class SmtpLine(asyncio.Protocol):
    """A connection that carries one mail after the other.

    Whoever is cancelled, or meets an error, has to close it: it may be half way in a mail. All
    methods raise aiosmtplib's errors.
    """

    def __init__(self, transport: asyncio.Transport, *, together: bool, takes_utf8: bool) -> None:
        self._transport = transport
        self._together = together
        self._takes_utf8 = takes_utf8
        self._heard = b""
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def take_over(cls, connection: aiosmtplib.SMTP) -> SmtpLine:
        """Return the line of a connection that is open; aiosmtplib is done with it."""
        transport = cast("asyncio.Transport | None", connection.transport)
        if transport is None or transport.is_closing():
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        line = cls(
            transport,
            together=connection.supports_extension("PIPELINING"),
            takes_utf8=connection.supports_extension("SMTPUTF8"),
        )
        transport.set_protocol(line)
        return line

    @property
    def is_open(self) -> bool:
        """Whether a mail may be tried on it."""
        # What a server says unasked is that it closes.
        return not self._transport.is_closing() and not self._heard

    async def begin(self, sender: str, recipient: str) -> None:
        """Say from whom a mail is and for whom. Nothing of the mail itself is out yet."""
        option = "" if recipient.isascii() else " SMTPUTF8"
        if option and not self._takes_utf8:
            raise aiosmtplib.SMTPNotSupported("SMTPUTF8")
        mail_from = f"MAIL FROM:<{sender}>{option}\r\n".encode()
        rcpt_to = f"RCPT TO:<{recipient}>\r\n".encode()
        if self._together:
            self._write(mail_from + rcpt_to + _DATA)
        code, words = await self._said(mail_from)
        if code != SMTPStatus.completed:
            raise aiosmtplib.SMTPSenderRefused(code, _text(words), sender)
        code, words = await self._said(rcpt_to)
        if code not in (SMTPStatus.completed, SMTPStatus.will_forward):
            raise aiosmtplib.SMTPRecipientRefused(code, _text(words), recipient)
        code, words = await self._said(_DATA)
        if code != SMTPStatus.start_input:
            raise aiosmtplib.SMTPDataError(code, _text(words))

    async def _said(self, command: bytes) -> tuple[int, bytes]:
        """Return the answer to a command, which may be out already."""
        if not self._together:
            self._write(command)
        return await self._answer()

    async def finish(self, mail: bytes) -> None:
        """Hand the mail over that has begun. Its lines end with CRLF, the last one too."""
        # A dot by itself ends a mail.
        self._write(mail.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        code, words = await self._answer()
        if code != SMTPStatus.completed:
            raise aiosmtplib.SMTPDataError(code, _text(words))

    async def leave(self) -> None:
        """Take leave of the server."""
        self._write(b"QUIT\r\n")
        await self._answer()

    def close(self) -> None:
        """Close it at once."""
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        self._transport.write(data)

    async def _answer(self) -> tuple[int, bytes]:
        """Return the server's next answer: its code, and all of it."""
        while (found := _ANSWER.match(self._heard)) is None:
            if len(self._heard) > _LONGEST_ANSWER or not (self._heard[:3] or b"0").isdigit():
                raise aiosmtplib.SMTPServerDisconnected("It does not speak SMTP")
            if self._transport.is_closing():
                raise aiosmtplib.SMTPServerDisconnected("Connection lost")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._heard = self._heard[found.end() :]
        return int(found[1]), found[0]

    # What the transport tells

    def data_received(self, data: bytes) -> None:
        """Keep what came, for whoever waits."""
        self._heard += data
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """Let nobody wait any more."""
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _text(answer: bytes) -> str:
    return _CODES.sub("", answer.decode(errors="replace")).strip()
