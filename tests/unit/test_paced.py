"""The pace of a sender: turns at even distances, near ones waited for and far ones sent away."""

from __future__ import annotations

import pytest

from orderflow.errors import SenderBusy
from orderflow.senders import Channel, Message
from orderflow.senders.paced import PATIENCE_S, PacedSender
from orderflow.setting_types import RequestRate


class Nobody:
    channel = Channel.SMS

    async def send(self, message: Message) -> str:
        return message.reference


def turns(sender: PacedSender, times: int, now: float) -> tuple[list[float], list[float]]:
    """Return how long those wait that wait, and after what time the others are to come back."""
    waited, sent_away = [], []
    for _ in range(times):
        try:
            waited.append(sender._wait_s(now))
        except SenderBusy as busy:
            sent_away.append(busy.retry_after_s)
    return waited, sent_away


def test_near_turns_are_waited_for_and_far_ones_come_one_after_the_other() -> None:
    waited, sent_away = turns(PacedSender(Nobody(), RequestRate(4, 1)), 12, 1_000.0)
    assert waited == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sent_away == [1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75]


def test_whoever_comes_back_at_its_turn_finds_it_free() -> None:
    sender = PacedSender(Nobody(), RequestRate(1, 2))
    _, sent_away = turns(sender, 50, 0.0)
    assert sent_away == [2.0 * n for n in range(1, 50)]
    for after_s in sent_away:
        assert sender._wait_s(after_s) == 0.0


def test_a_pace_of_less_than_one_a_second_is_kept_too() -> None:
    sender = PacedSender(Nobody(), RequestRate(1, 60))
    assert sender._wait_s(5.0) == 0.0
    with pytest.raises(SenderBusy, match=r"The sms has its turn in 59\.0 s"):
        sender._wait_s(6.0)


def test_time_that_nobody_used_is_not_made_up_for() -> None:
    sender = PacedSender(Nobody(), RequestRate(10, 1))
    turns(sender, 5, 0.0)
    waited, _ = turns(sender, 20, 1_000.0)
    assert waited[:2] == [0.0, pytest.approx(0.1)]
    assert max(waited) <= PATIENCE_S


async def test_a_message_goes_through_at_its_turn() -> None:
    sender = PacedSender(Nobody(), RequestRate(1_000, 1))
    message = Message("+4915112345678", "", "Hello", reference="x.1")
    assert [await sender.send(message) for _ in range(5)] == ["x.1"] * 5
