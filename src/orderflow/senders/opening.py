"""Which senders there are, by the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from orderflow.senders import Channel, Sender
from orderflow.senders.console import ConsoleSender
from orderflow.senders.file import FileSender
from orderflow.senders.paced import PacedSender
from orderflow.senders.smtp import SmtpSender
from orderflow.senders.twilio import open_twilio
from orderflow.setting_types import RequestRate
from orderflow.settings import Settings


@asynccontextmanager
async def open_senders(settings: Settings) -> AsyncIterator[tuple[Sender, ...]]:
    """Give a sender for mail, and one for SMS where a setting names it; closed on leaving."""
    senders = []
    async with AsyncExitStack() as stack:
        if settings.mail_file is not None:
            senders.append(_paced(_written(Channel.EMAIL, settings.mail_file), settings.mail_rate))
        else:
            mail = SmtpSender(settings)
            stack.push_async_callback(mail.close)
            senders.append(_paced(mail, settings.mail_rate))
        if settings.sms_file is not None:
            senders.append(_paced(_written(Channel.SMS, settings.sms_file), settings.sms_rate))
        elif settings.twilio_account_sid is not None:
            twilio = await stack.enter_async_context(open_twilio(settings))
            senders.append(_paced(twilio, settings.sms_rate))
        yield tuple(senders)


def _written(channel: Channel, path: Path) -> Sender:
    return ConsoleSender(channel) if str(path) == "-" else FileSender(channel, path)


def _paced(sender: Sender, rate: RequestRate | None) -> Sender:
    return sender if rate is None else PacedSender(sender, rate)
