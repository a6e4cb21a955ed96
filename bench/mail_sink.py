"""A mail server that takes every mail and delivers none: `python -m bench.mail_sink FILE`.

It says on its standard output which port it listens on. Each mail is a line of FILE, with its
Message-ID, written before the mail is answered. It knows the commands that both sides say, answers
them as Postfix does, and costs little beside what is measured: 25 microseconds a mail, where
aiosmtpd takes 250, so that two cores would measure it and not who sends.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from typing import cast

import uvloop

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^>]*)>", re.IGNORECASE | re.MULTILINE)
_HELLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
_ENDS = {True: b"\r\n.\r\n", False: b"\r\n"}


class _Line(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._heard = b""
        self._recipients = 0
        self._is_in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._heard += data
        answers = b""
        while True:
            said, end, rest = self._heard.partition(_ENDS[self._is_in_mail])
            if not end:
                break
            self._heard = rest
            answers += self._take(said) if self._is_in_mail else self._answer(said)
        if answers:
            self._transport.write(answers)

    def _answer(self, command: bytes) -> bytes:
        match command[:4].upper():
            case b"EHLO":
                return _HELLO
            case b"MAIL" | b"RSET":
                self._recipients = 0
                return b"250 2.1.0 Ok\r\n"
            case b"RCPT":
                self._recipients += 1
                return b"250 2.1.5 Ok\r\n"
            case b"DATA":
                self._is_in_mail = True
                return b"354 End data with <CR><LF>.<CR><LF>\r\n"
            case b"QUIT":
                return b"221 2.0.0 Bye\r\n"
        return b"502 5.5.2 Error: command not recognized\r\n"

    def _take(self, mail: bytes) -> bytes:
        self._is_in_mail = False
        found = _MESSAGE_ID.search(mail)
        if found is None or self._recipients != 1:
            return b"554 5.6.0 a mail has one Message-ID and one recipient\r\n"
        os.write(self._fd, found[1] + b"\n")
        return b"250 2.0.0 Ok: queued\r\n"


async def _serve(path: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    server = await loop.create_server(lambda: _Line(fd), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
