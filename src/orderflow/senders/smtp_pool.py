"""Connections to the mail server, which stay open from one mail to the next."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress

import aiosmtplib

from orderflow.senders.smtp_line import SmtpLine
from orderflow.settings import Settings

#: Mail servers close a connection that rests for some minutes; until then it is good.
_RESTED_S = 30.0
_SHUTTING_DOWN = 421


class SmtpPool:
    """At most SMTP_CONNECTIONS connections at once; the one that was used last is used next.

    No method has a time-out of its own: whoever is cancelled leaves no connection half way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(settings.smtp_connections)
        self._idle: list[tuple[float, SmtpLine]] = []
        self._tls = (
            None
            if settings.smtp_security == "none"
            else ssl.create_default_context(cafile=settings.smtp_ca_file)
        )
        self._own_name: str | None = None

    async def deliver(self, sender: str, recipient: str, mail: bytes) -> None:
        """Hand a mail over, whose lines end with CRLF. An error closes its connection.

        Raises what aiosmtplib does.
        """
        async with self._room:
            line = await self._begin(sender, recipient)
            try:
                await line.finish(mail)
            except BaseException:
                line.close()
                raise
            self._idle.append((time.monotonic(), line))

    async def _begin(self, sender: str, recipient: str) -> SmtpLine:
        while (rested := self._take_rested()) is not None:
            # The server may have closed it, and nothing of the mail is out yet.
            try:
                await _say(rested, sender, recipient)
            except aiosmtplib.SMTPServerDisconnected:
                continue
            except aiosmtplib.SMTPResponseException as error:
                if error.code != _SHUTTING_DOWN:
                    raise
            else:
                return rested
        line = await self._connect()
        await _say(line, sender, recipient)
        return line

    def _take_rested(self) -> SmtpLine | None:
        oldest = time.monotonic() - _RESTED_S
        while self._idle:
            since, line = self._idle.pop()
            if since > oldest and line.is_open:
                return line
            line.close()
        return None

    async def _connect(self) -> SmtpLine:
        settings = self._settings
        password = settings.smtp_password
        connection = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            # To find out one's own name may ask a name server.
            local_hostname=self._own_name,
            use_tls=settings.smtp_security == "tls",
            start_tls=settings.smtp_security == "starttls",
            tls_context=self._tls,
            timeout=None,
        )
        try:
            await connection.connect()
            self._own_name = connection.local_hostname
            if connection.is_ehlo_or_helo_needed:
                await connection.ehlo()
            return SmtpLine.take_over(connection)
        except BaseException:
            connection.close()
            raise

    async def close(self) -> None:
        """Take leave of the server on every connection that rests, for a second at most."""
        rested = [line for _, line in self._idle]
        self._idle.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                leaves = (line.leave() for line in rested)
                await asyncio.gather(*leaves, return_exceptions=True)
        for line in rested:
            line.close()


async def _say(line: SmtpLine, sender: str, recipient: str) -> None:
    """Begin a mail; a connection on which that fails is closed."""
    try:
        await line.begin(sender, recipient)
    except BaseException:
        line.close()
        raise
