"""The API's connections: what is written in one turn leaves in one piece."""

from __future__ import annotations

import asyncio

import pytest

from orderflow.api.protocol import _JoinedWrites


class Wire:
    """Remembers what reaches it."""

    def __init__(self) -> None:
        self.seen: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.seen.append(data)

    def close(self) -> None:
        self.seen.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.seen

    def get_extra_info(self, name: str) -> str:
        return name


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def joined(wire) -> _JoinedWrites:
    return _JoinedWrites(wire, asyncio.get_running_loop())


async def test_one_turn_is_one_write(wire, joined):
    joined.write(b"head ")
    joined.write(b"body")
    assert wire.seen == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)
    assert wire.seen == [b"head body", b"next"]


async def test_what_was_written_goes_before_the_close(wire, joined):
    joined.write(b"last words")
    joined.close()
    await asyncio.sleep(0)
    assert wire.seen == [b"last words", "closed"]


async def test_nothing_goes_to_a_connection_that_was_lost_meanwhile(wire, joined):
    joined.write(b"too late")
    wire.close()
    await asyncio.sleep(0)
    assert wire.seen == ["closed"]


async def test_all_else_is_the_transports(joined):
    assert joined.get_extra_info("peername") == "peername"
