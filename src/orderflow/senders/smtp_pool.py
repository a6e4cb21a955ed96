"""Connections to the mail server, which stay open from one mail to the next."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiosmtplib

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
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []
        self._tls = (
            None
            if settings.smtp_security == "none"
            else ssl.create_default_context(cafile=settings.smtp_ca_file)
        )
        self._own_name: str | None = None

    @asynccontextmanager
    async def mail_from(
        self, sender: str, options: Sequence[str]
    ) -> AsyncIterator[aiosmtplib.SMTP]:
        """Give a connection on which a mail of `sender` has begun. An error closes it.

        Raises what aiosmtplib does.
        """
        async with self._room:
            connection = await self._begin(sender, options)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append((time.monotonic(), connection))

    async def _begin(self, sender: str, options: Sequence[str]) -> aiosmtplib.SMTP:
        while (rested := self._take_rested()) is not None:
            # The server may have closed it, and nothing of the mail is out yet.
            try:
                await _say(rested, sender, options)
            except aiosmtplib.SMTPServerDisconnected:
                continue
            except aiosmtplib.SMTPResponseException as error:
                if error.code != _SHUTTING_DOWN:
                    raise
            else:
                return rested
        connection = await self._connect()
        await _say(connection, sender, options)
        return connection

    def _take_rested(self) -> aiosmtplib.SMTP | None:
        oldest = time.monotonic() - _RESTED_S
        while self._idle:
            since, connection = self._idle.pop()
            if since > oldest and connection.is_connected:
                return connection
            connection.close()
        return None

    async def _connect(self) -> aiosmtplib.SMTP:
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
        await connection.connect()
        self._own_name = connection.local_hostname
        return connection

    async def close(self) -> None:
        """Take leave of the server on every connection that rests, for a second at most."""
        rested = [connection for _, connection in self._idle]
        self._idle.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                leaves = (connection.quit() for connection in rested)
                await asyncio.gather(*leaves, return_exceptions=True)
        for connection in rested:
            connection.close()


async def _say(connection: aiosmtplib.SMTP, sender: str, options: Sequence[str]) -> None:
    """Begin a mail; a connection on which that fails is closed."""
    try:
        if connection.is_ehlo_or_helo_needed:
            await connection.ehlo()
        if options and not all(map(connection.supports_extension, options)):
            raise aiosmtplib.SMTPNotSupported(" ".join(options))
        await connection.mail(sender, options=options, encoding="utf-8")
    except BaseException:
        connection.close()
        raise
