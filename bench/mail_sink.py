"""A mail server that takes every mail and delivers none: `python -m bench.mail_sink FILE`.

It says on its standard output which port it listens on. Each mail is a line of FILE, with its
Message-ID, written before the mail is answered.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys

import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^>]*)>", re.IGNORECASE | re.MULTILINE)


class _Sink:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def handle_DATA(  # noqa: N802 - the name is aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        found = _MESSAGE_ID.search(envelope.original_content or b"")
        if found is None or len(envelope.rcpt_tos) != 1:
            return "554 5.6.0 a mail has one Message-ID and one recipient"
        os.write(self._fd, found[1] + b"\n")
        return "250 OK"


async def _serve(path: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    sink = _Sink(path)
    server = await loop.create_server(
        lambda: SMTP(sink, hostname="sink", loop=loop), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
