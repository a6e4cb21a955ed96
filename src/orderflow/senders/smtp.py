"""Mail over SMTP."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr

import aiosmtplib

from orderflow.errors import AddressRefused, SenderUnavailable
from orderflow.senders import Channel, Message
from orderflow.settings import Settings


class SmtpSender:
    """Sends each message over a connection of its own to SMTP_HOST."""

    channel = Channel.EMAIL

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._domain = parseaddr(settings.mail_from)[1].rpartition("@")[2] or "localhost"

    async def send(self, message: Message) -> str:
        """Hand the mail over; return its Message-ID."""
        mail = self._compose(message)
        settings = self._settings
        try:
            await aiosmtplib.send(
                mail,
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                username=settings.smtp_username,
                password=(
                    settings.smtp_password.get_secret_value() if settings.smtp_password else None
                ),
                use_tls=settings.smtp_security == "tls",
                start_tls=settings.smtp_security == "starttls",
                timeout=settings.smtp_timeout_ms / 1000,
            )
        # A failed job keeps its error with all that led to it, and a mail server may repeat in its
        # answer what it was told: the address, and the password.
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refusal(error.recipients[0]) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise SenderUnavailable(channel="mail", reason=type(error).__name__) from None
        return str(mail["Message-ID"])

    def _compose(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._settings.mail_from
        mail["To"] = message.recipient
        mail["Subject"] = message.subject
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = f"<{message.reference}@{self._domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        if message.html is not None:
            mail.add_alternative(message.html, subtype="html")
        return mail


def _refusal(refused: aiosmtplib.SMTPRecipientRefused) -> AddressRefused | SenderUnavailable:
    reason = f"SMTP {refused.code}"
    if refused.code >= 500:
        return AddressRefused(channel="mail", reason=reason)
    return SenderUnavailable(channel="mail", reason=reason)
