"""Mail over SMTP."""

from __future__ import annotations

import asyncio
import re
import ssl
from email.utils import parseaddr

import aiosmtplib
import idna

from orderflow.errors import AddressRefused, SenderUnavailable
from orderflow.senders import Channel, Message
from orderflow.senders.mime import message_id, write_from, write_mail
from orderflow.senders.smtp_pool import SmtpPool
from orderflow.settings import Settings

#: What can stand in a command and in a header, and goes to one mailbox.
_PART = r"""[^\s\x00-\x1f\x7f-\x9f<>@,;:\\"()\[\]]+"""
_ADDRESS = re.compile(f"{_PART}@{_PART}")
_ENHANCED_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")
#: Refused for what we said or are, and not for whom it was for: out of order, not signed in, …
_OURS = frozenset({503, 530, 534, 535, 538})


class SmtpSender:
    """Sends mail to SMTP_HOST, over connections that stay open."""

    channel = Channel.EMAIL

    def __init__(self, settings: Settings) -> None:
        self._timeout_ms = settings.smtp_timeout_ms
        self._sender = parseaddr(settings.mail_from)[1]
        self._from = write_from(settings.mail_from)
        self._domain = self._sender.rpartition("@")[2] or "localhost"
        self._pool = SmtpPool(settings)

    async def send(self, message: Message) -> str:
        """Hand the mail over; return its Message-ID."""
        if not _ADDRESS.fullmatch(message.recipient):
            raise AddressRefused(channel="mail", reason="it is no address")
        mail = write_mail(message, self._from, self._domain)
        # A failed job keeps its error with all that led to it, and a mail server may repeat in its
        # answer what it was told: the address, and the password.
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._pool.deliver(self._sender, _in_ascii(message.recipient), mail)
        except aiosmtplib.SMTPResponseException as error:
            raise _refusal(error) from None
        except aiosmtplib.SMTPNotSupported:
            raise AddressRefused(
                channel="mail", reason="the server takes it in ASCII only"
            ) from None
        except TimeoutError:
            reason = f"no answer within {self._timeout_ms} ms"
            raise SenderUnavailable(channel="mail", reason=reason) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise SenderUnavailable(channel="mail", reason=_told(error)) from None
        return message_id(message, self._domain)

    async def close(self) -> None:
        """Take leave of the server."""
        await self._pool.close()


def _in_ascii(address: str) -> str:
    """Return the address with its domain as name servers know it, which every server takes."""
    local_part, _, domain = address.rpartition("@")
    if domain.isascii():
        return address
    try:
        return f"{local_part}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        raise AddressRefused(channel="mail", reason="its domain is no name") from None


def _refusal(error: aiosmtplib.SMTPResponseException) -> AddressRefused | SenderUnavailable:
    """Say whether the address or the mail is refused for good: any other refusal may end."""
    enhanced = _ENHANCED_CODE.match(error.message)
    reason = f"SMTP {error.code} {enhanced[0]}" if enhanced else f"SMTP {error.code}"
    about_us = error.code in _OURS or (enhanced and enhanced[0].startswith(("5.5.", "5.7.")))
    of_recipient = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
    if of_recipient and error.code >= 500 and not about_us:
        return AddressRefused(channel="mail", reason=reason)
    return SenderUnavailable(channel="mail", reason=reason)


def _told(error: Exception) -> str:
    cause = error if isinstance(error, ssl.SSLCertVerificationError) else error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate, {cause.verify_message}"
    return type(error).__name__
