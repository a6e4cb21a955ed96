"""A pace for a sender: so many messages in so many seconds, by one process."""

from __future__ import annotations

import asyncio

from orderflow.errors import SenderBusy
from orderflow.senders import Message, Sender
from orderflow.setting_types import RequestRate

#: Longest that a message waits for its turn in its worker's slot.
PATIENCE_S = 1.0


class PacedSender:
    """Lets messages through at an even pace.

    One whose turn is within PATIENCE_S waits for it. Any other is sent away until a turn of its
    own, one after the other, so that it does not hold up jobs that need another sender.
    """

    def __init__(self, sender: Sender, rate: RequestRate) -> None:
        self.channel = sender.channel
        self._sender = sender
        self._step_s = rate.seconds / rate.max
        self._next = 0.0
        self._last_sent_away = 0.0

    async def send(self, message: Message) -> str:
        """Hand the message over at its turn. Raises SenderBusy if that is too far off."""
        await asyncio.sleep(self._wait_s(asyncio.get_running_loop().time()))
        return await self._sender.send(message)

    def _wait_s(self, now: float) -> float:
        turn = max(now, self._next)
        if turn - now > PATIENCE_S:
            self._last_sent_away = max(turn, self._last_sent_away + self._step_s)
            raise SenderBusy(
                channel=self.channel.value, retry_after_s=round(self._last_sent_away - now, 3)
            )
        self._next = turn + self._step_s
        return turn - now
