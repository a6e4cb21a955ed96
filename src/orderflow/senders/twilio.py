"""SMS over Twilio's Messages API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from orderflow.errors import AddressRefused, SenderUnavailable
from orderflow.senders import Channel, Message
from orderflow.settings import Settings

#: Twilio's codes for a number that no SMS will reach, however often it is tried.
REFUSED = {
    21211: "it is no number",
    21214: "it cannot be reached",
    21217: "it is no number",
    21408: "the account may not send to its region",
    21610: "it is unsubscribed",
    21612: "it cannot be reached from this sender",
    21614: "it is not a mobile number",
}


class TwilioSender:
    """Sends SMS from TWILIO_FROM, a number, a name, or a messaging service (MG…)."""

    channel = Channel.SMS

    def __init__(self, client: httpx.AsyncClient, settings: Settings) -> None:
        self._client = client
        self._timeout_ms = settings.twilio_timeout_ms
        self._path = f"/2010-04-01/Accounts/{settings.twilio_account_sid}/Messages.json"
        sender = settings.twilio_from or ""
        self._from = {"MessagingServiceSid" if sender.startswith("MG") else "From": sender}

    async def send(self, message: Message) -> str:
        """Hand the SMS over; return the `sid` that Twilio gave it."""
        data = {"To": message.recipient, "Body": message.text, **self._from}
        # Twilio's answers repeat the number.
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                response = await self._client.post(self._path, data=data)
        except TimeoutError:
            reason = f"no answer within {self._timeout_ms} ms"
            raise SenderUnavailable(channel="SMS", reason=reason) from None
        except httpx.HTTPError as error:
            raise SenderUnavailable(channel="SMS", reason=type(error).__name__) from None
        answer = _json(response)
        if response.is_success and isinstance(answer.get("sid"), str):
            return str(answer["sid"])
        raise _refusal(response.status_code, answer.get("code"))


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal(status: int, code: object) -> AddressRefused | SenderUnavailable:
    if isinstance(code, int) and code in REFUSED:
        return AddressRefused(channel="SMS", reason=f"Twilio {code}, {REFUSED[code]}")
    told = f"Twilio {code}" if isinstance(code, int) else "Twilio"
    return SenderUnavailable(channel="SMS", reason=f"{told}, HTTP {status}")


@asynccontextmanager
async def open_twilio(settings: Settings) -> AsyncIterator[TwilioSender]:
    """Give a sender of the account TWILIO_ACCOUNT_SID, closed on leaving."""
    token = settings.twilio_auth_token
    login = (settings.twilio_account_sid or "", token.get_secret_value() if token else "")
    async with httpx.AsyncClient(
        base_url=settings.twilio_url, auth=login, timeout=settings.twilio_timeout_ms / 1000
    ) as client:
        yield TwilioSender(client, settings)
