"""The sandbox's mail server: `python -m orderflow.sandbox.mail`.

It delivers nothing. Each mail it takes becomes one `.eml` file in a folder, whole or not at all,
under a name that sorts by arrival, with the envelope in the headers X-MailFrom and X-RcptTo.

The recipient says how it goes: a local part that begins with `refused` is refused for good (550),
one that begins with `busy` for now (451).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from orderflow.logs import configure_logs

_MAX_MAIL_BYTES = 10 * 1024 * 1024

_log = logging.getLogger("orderflow.sandbox.mail")


class MailFolder:
    """What the server does with each recipient and each mail; its hooks are aiosmtpd's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._last_ns = 0

    async def handle_RCPT(  # noqa: N802 - the name is aiosmtpd's
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        """Take or refuse one recipient."""
        local_part = address.partition("@")[0].lower()
        if local_part.startswith("refused"):
            return "550 5.1.1 no such mailbox"
        if local_part.startswith("busy"):
            return "451 4.3.0 the mailbox is busy, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802 - the name is aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Keep one mail."""
        try:
            self._keep(envelope)
        except OSError as error:
            _log.error("a mail could not be kept: %s", error)
            return "452 4.3.1 the mail could not be kept, try again later"
        return "250 2.0.0 OK"

    def _keep(self, envelope: Envelope) -> None:
        sender = envelope.mail_from or ""
        head = f"X-MailFrom: {sender}\r\nX-RcptTo: {', '.join(envelope.rcpt_tos)}\r\n"
        name = self._next_name()
        # Hidden and renamed, so that whoever lists *.eml never reads half a mail.
        unfinished = self._folder / f".{name}.tmp"
        unfinished.write_bytes(
            head.encode("utf-8", "surrogateescape") + (envelope.original_content or b"")
        )
        unfinished.rename(self._folder / f"{name}.eml")

    def _next_name(self) -> str:
        # The clock may stand still or step back between two mails; their order may not.
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        seconds, rest = divmod(self._last_ns, 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{rest:09d}Z"


async def serve(host: str, port: int, folder: MailFolder) -> None:
    """Take mail until SIGTERM or SIGINT. Raises OSError when it cannot listen."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(
        lambda: SMTP(
            folder,
            hostname="localhost",
            ident="orderflow sandbox",
            data_size_limit=_MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            loop=loop,
        ),
        host,
        port,
    )
    _log.info("mail server on smtp://%s:%d", *server.sockets[0].getsockname()[:2])
    await ended.wait()
    server.close()


def main() -> None:
    """Serve until a signal ends it; a mistake on the command line ends it with one line."""
    parser = argparse.ArgumentParser(prog="python -m orderflow.sandbox.mail")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8025, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, required=True, help="where each mail is kept")
    options = parser.parse_args()
    configure_logs("console", "info")
    # aiosmtpd logs every line of every conversation, and asyncio its choice of selector.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    try:
        folder = MailFolder(options.folder)
    except OSError as error:
        sys.exit(f"cannot keep mail in {options.folder}: {error}")
    try:
        asyncio.run(serve(options.host, options.port, folder))
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error}")


if __name__ == "__main__":
    main()
